// Tab Generate: one seed, and a sheet of the next ones.

import {complain, draw, drawing, el, image, on, randomSeed, seedRecipe, state} from './core.js';
import {isSlow, Stage} from './stage.js';

const SHEET = 16;

export function generateTab() {
  let sheetAbort = null;
  let sheetKey = '';
  const stage = new Stage(() => `Seed ${seed()}`);
  const number = el('input', {type: 'number', id: 'seed', min: 0, max: 4294967295, step: 1, value: 0,
    onchange: () => go(seed())});
  const seed = () => Math.min(Math.max(Math.floor(Number(number.value)) || 0, 0), 4294967295);
  const go = (value) => { number.value = Math.max(value, 0); update(); };
  const sheet = el('div', {class: 'sheet', id: 'sheet'});
  const controls = el('div', {class: 'panel controls'},
    el('h2', {}, 'Seed'),
    el('div', {class: 'row'}, el('label', {}, 'Number', number)),
    el('div', {class: 'row'},
      el('button', {onclick: () => go(seed() - 1)}, '← Previous'),
      el('button', {onclick: () => go(seed() + 1)}, 'Next →'),
      el('button', {class: 'main', onclick: () => go(randomSeed())}, 'Random')),
    el('p', {class: 'hint'}, 'A truncation psi of 1 gives the full variety; with less, pictures are more typical.'),
    el('h2', {}, `The next ${SHEET}`), sheet,
    el('div', {class: 'row'}, el('button', {onclick: () => go(seed() + SHEET)}, `Go on by ${SHEET}`)));

  function update(moving = false) {
    stage.draw(seedRecipe(seed()), moving);
    if (!moving) drawSheet();
  }

  async function drawSheet() {
    await stage.idle();  // First the large picture, which says how long they take.
    const first = seed() + 1;
    const key = JSON.stringify([first, drawing(), seedRecipe(0)]);
    if (key === sheetKey) return;
    sheetKey = key;
    sheetAbort?.abort();
    const abort = sheetAbort = new AbortController();
    const cells = Array.from({length: SHEET}, (_, index) =>
      el('button', {title: `Seed ${first + index}`, 'aria-label': `Seed ${first + index}`,
        onclick: () => go(first + index)}, el('small', {}, first + index)));
    sheet.replaceChildren(...cells);
    try {
      for (const [index, cell] of cells.entries()) {  // One after the other, so that others have their turn.
        const {blob} = await draw({...drawing(), recipe: seedRecipe(first + index), preview: isSlow()}, abort.signal);
        cell.prepend(image(blob, ''));
      }
    } catch (error) {
      sheetKey = '';
      complain(error);
    }
  }

  on('net', () => { sheetKey = ''; });
  return {node: el('div', {class: 'columns'}, controls, stage.node), activate: () => update(state.moving),
    deactivate: () => sheetAbort?.abort(), needsW: false};
}
