// The large picture of a tab: draws previews while a slider moves, then the whole picture; downloads; the command.

import {changed, commandBox, complain, download, draw, drawing, el, image, keep, say, send, state,
  thumbnail} from './core.js';

const FAST = 120;  // Milliseconds: pictures that take less need no preview.

let lastFull = Infinity;  // How long a whole picture took.

export class Stage {
  /** `title()` is the text for a picture's description. */
  constructor(title) {
    this.title = title;
    this.frame = el('div', {class: 'picture'}, el('div', {class: 'empty'}, 'No picture yet'));
    this.command = commandBox('Command that makes this picture');
    this.note = el('p', {class: 'hint', hidden: true},
      'The command needs the npz file of this picture in the working folder: download it first.');
    this.buttons = [
      el('button', {onclick: () => this.savePng()}, 'Download PNG'),
      el('button', {onclick: () => this.saveNpz()}, 'Download npz'),
      el('button', {onclick: () => this.addToWalk()}, 'Add to walk'),
      el('button', {title: 'Offer this picture in all other tabs', onclick: () => this.keepIt()}, 'Keep'),
    ];
    this.node = el('div', {class: 'panel'}, this.frame, el('div', {class: 'row'}, ...this.buttons), this.command,
      this.note);
    this.next = null;      // What is to be drawn.
    this.busy = false;
    this.shown = null;     // {request, blob, command} of the whole picture that is shown.
    this.enable(false);
  }

  enable(can) {
    this.buttons.forEach((button) => { button.disabled = !can; });
    this.buttons.slice(1, 4).forEach((button) => { button.hidden = state.net?.layers === 0; });
  }

  /** Draw a recipe. `moving`: a slider still moves, so that a preview is enough. */
  draw(recipe, moving = false) {
    if (state.noise === 'fresh' && !moving) state.noiseSeed = Math.floor(Math.random() * 4294967295);
    const request = {...drawing(), recipe};
    const isShown = this.shown && !this.busy && this.picture.dataset.kind === 'full' &&
      JSON.stringify(request) === JSON.stringify(this.shown.request);
    if (isShown) return;
    this.next = {request, moving};
    if (moving) {
      clearTimeout(this.timer);  // The whole picture, if the slider rests without being let go.
      this.timer = setTimeout(() => this.draw(recipe), 350);
    } else {
      clearTimeout(this.timer);
    }
    this.abort?.abort();
    if (!this.busy) this.run();
  }

  async run() {
    this.busy = true;
    this.frame.classList.add('busy');
    while (this.next) {
      const {request, moving} = this.next;
      this.next = null;
      const canPreview = state.net?.preview && request.recipe.kind !== undefined;
      try {
        if (moving && canPreview && lastFull > FAST) {
          const {blob} = await draw({...request, preview: true});
          if (!this.next?.request || this.next.moving) this.show(blob, true);
        } else {
          this.abort = moving ? null : new AbortController();
          const start = performance.now();
          const {blob, command} = await draw(request, this.abort?.signal);
          lastFull = performance.now() - start;
          this.shown = {request, blob, command};
          this.show(blob, false, `${Math.round(lastFull)} ms`);
          this.command.set(command);
          this.note.hidden = !command.includes('--dlatents=');
          this.enable(true);
        }
      } catch (error) {
        complain(error);
      }
      this.abort = null;
    }
    this.busy = false;
    this.frame.classList.remove('busy');
  }

  show(blob, isPreview, badge = '') {
    this.picture = image(blob, this.title());
    this.picture.dataset.kind = isPreview ? 'preview' : 'full';
    this.frame.replaceChildren(this.picture, el('span', {class: 'badge'}, isPreview ? 'preview' : badge));
  }

  /** First part of the names of files. */
  get name() {
    const match = /--dlatents=(\S+)\.npz/.exec(this.shown.command.replaceAll("'", ''));
    return match ? match[1] : `seed${String(this.shown.request.recipe.seed).padStart(4, '0')}`;
  }

  savePng() { download(this.shown.blob, `${this.name}.png`); }

  async saveNpz() {
    try {
      const {recipe, ...request} = this.shown.request;
      const response = await send('api/npz', JSON.stringify({...request, recipes: [recipe]}));
      download(await response.blob(), `${this.name}.npz`);
    } catch (error) {
      complain(error);
    }
  }

  addToWalk() {
    state.keys.push({recipe: this.shown.request.recipe, name: this.title(), thumb: thumbnail(this.picture)});
    changed('keys');
    say(`Keyframe ${state.keys.length} of the walk.`);
  }

  keepIt() {
    keep(this.title(), this.shown.request.recipe);
    say('The other tabs offer this picture now.');
  }
}
