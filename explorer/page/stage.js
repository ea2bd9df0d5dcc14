// The large picture of a tab: draws previews while a slider moves, then the whole picture; downloads; the command.

import {changed, commandBox, complain, download, draw, drawing, el, image, keep, say, send, state,
  thumbnail} from './core.js';

const FAST = 120;  // Milliseconds: pictures that take less need no preview.

const SLOW = 700;  // Pictures that take more are drawn small where many of them are needed.

let lastFull = Infinity;  // How long a whole picture took.

/** Should many pictures be drawn as previews? */
export const isSlow = () => lastFull > SLOW && lastFull < Infinity;

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
    this.shown = null;     // {request, blob, command, title, picture} of the whole picture that is shown.
    this.enable(false);
  }

  enable(can) {
    this.buttons.forEach((button) => { button.disabled = !can; });
    this.buttons.slice(1, 4).forEach((button) => { button.hidden = state.net?.layers === 0; });
  }

  /** Draw a recipe. `moving`: a slider still moves, so that a preview is enough. */
  draw(recipe, moving = false) {
    clearTimeout(this.timer);
    if (moving) this.timer = setTimeout(() => this.draw(recipe), 350);  // If the slider rests without being let go.
    if (state.noise === 'fresh' && !moving) state.noiseSeed = Math.floor(Math.random() * 4294967295);
    const request = {...drawing(), recipe};
    const isShown = this.shown && !this.busy && this.picture.dataset.kind === 'full' &&
      JSON.stringify(request) === JSON.stringify(this.shown.request);
    if (isShown) return;
    this.next = {request, moving, title: this.title()};
    this.abort?.abort();
    if (!this.busy) this.run();
  }

  /** A promise that nothing is being drawn. */
  async idle() {
    while (this.busy) await new Promise((resolve) => setTimeout(resolve, 30));
  }

  async run() {
    this.busy = true;
    this.frame.classList.add('busy');
    while (this.next) {
      const {request, moving, title} = this.next;
      this.next = null;
      const canPreview = state.net?.preview && request.recipe.kind !== undefined;
      try {
        if (moving && canPreview && lastFull > FAST) {
          const {blob} = await draw({...request, preview: true});
          if (!this.next?.request || this.next.moving) this.show(blob, title, true);
        } else {
          this.abort = moving ? null : new AbortController();
          const start = performance.now();
          const {blob, command} = await draw(request, this.abort?.signal);
          lastFull = performance.now() - start;
          this.show(blob, title, false, `${Math.round(lastFull)} ms`);
          this.shown = {request, blob, command, title, picture: this.picture};
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

  show(blob, title, isPreview, badge = '') {
    this.picture = image(blob, title);
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
    state.keys.push({recipe: this.shown.request.recipe, name: this.shown.title, thumb: thumbnail(this.shown.picture)});
    changed('keys');
    say(`Keyframe ${state.keys.length} of the walk.`);
  }

  keepIt() {
    keep(this.shown.title, this.shown.request.recipe);
    say('The other tabs offer this picture now.');
  }
}
