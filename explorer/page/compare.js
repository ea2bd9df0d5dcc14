// Tab Compare: the same latents in several networks.

import {complain, draw, drawing, el, image, picker, seedRecipe, state} from './core.js';

export function compareTab() {
  let abort = null;
  let drawn = '';
  const source = picker('From', 0, () => { rows.disabled = !source.isSeed(); });
  const rows = el('input', {type: 'number', class: 'short', min: 1, max: 12, value: 3});
  const size = el('input', {type: 'range', min: 64, max: 320, step: 16, value: 144,
    'aria-label': 'Size of the pictures', oninput: () => resize()});
  const boxes = state.info.networks.map((label, index) =>
    el('input', {type: 'checkbox', checked: index < 24, value: index, 'aria-label': label}));
  const go = el('button', {class: 'main', id: 'compare', onclick: () => compare()}, 'Compare');
  const stop = el('button', {onclick: () => abort?.abort()}, 'Stop');
  const status = el('p', {class: 'hint', role: 'status'});
  const result = el('div', {class: 'panel scroll'}, el('p', {class: 'hint'},
    'Each column is a network, each row a seed or a picture that was kept.'));
  const controls = el('div', {class: 'panel controls'},
    el('h2', {}, 'Pictures'), source, el('div', {class: 'row'}, el('label', {}, 'Seeds from there on', rows)),
    el('div', {class: 'row'}, el('label', {}, 'Size', size)),
    el('h2', {}, 'Networks'),
    el('div', {class: 'row'}, el('button', {onclick: () => boxes.forEach((box) => { box.checked = true; })}, 'All'),
      el('button', {onclick: () => boxes.forEach((box) => { box.checked = false; })}, 'None')),
    ...boxes.map((box, index) => el('div', {class: 'row'}, el('label', {}, box, state.info.networks[index]))),
    el('div', {class: 'row'}, go, stop), status,
    el('p', {class: 'hint'}, 'A network is read when its first picture is drawn, which can take some seconds.'));

  function resize() {
    for (const cell of result.querySelectorAll('.cell')) {
      cell.style.cssText = `width:${size.value}px;height:${size.value}px`;
    }
    result.querySelectorAll('img').forEach((picture) => { picture.width = size.value; });
  }

  async function compare() {
    abort?.abort();
    const {signal} = abort = new AbortController();
    const chosen = boxes.filter((box) => box.checked).map((box) => Number(box.value));
    const count = source.isSeed() ? Math.min(Math.max(Math.floor(Number(rows.value)) || 1, 1), 12) : 1;
    const recipes = source.isSeed() ?
      Array.from({length: count}, (_, index) => seedRecipe(source.seed() + index)) : [source.recipe()];
    const names = recipes.map((recipe) =>
      source.isSeed() ? `Seed ${recipe.seed}` : source.select.selectedOptions[0].text);
    const table = el('table', {class: 'grid'},
      el('tr', {}, el('th'), ...chosen.map((index) => el('th', {scope: 'col'}, state.info.networks[index]))));
    const cells = recipes.map((_, row) => {
      const line = chosen.map(() => el('div', {class: 'cell'}));
      table.append(el('tr', {}, el('th', {scope: 'row'}, names[row]), ...line.map((cell) => el('td', {}, cell))));
      return line;
    });
    result.replaceChildren(chosen.length ? table : el('p', {class: 'hint'}, 'Choose a network.'));
    resize();
    let done = 0;
    try {
      for (const [column, network] of chosen.entries()) {
        for (const [row, recipe] of recipes.entries()) {
          status.textContent = `${done++} of ${chosen.length * recipes.length} pictures`;
          const cell = cells[row][column];
          try {
            const {blob} = await draw({...drawing(), network, recipe}, signal);
            cell.append(image(blob, `${names[row]} in ${state.info.networks[network]}`, size.value));
          } catch (error) {
            if (error.name === 'AbortError') throw error;
            cell.classList.add('error');
            cell.textContent = error.message;
          }
        }
      }
      status.textContent = `${done} pictures.`;
    } catch (error) {
      status.textContent = 'Stopped.';
      complain(error);
    }
  }

  function activate() {
    const key = JSON.stringify([drawing(), state.psi, state.class]);
    if (key !== drawn && !state.moving) {
      drawn = key;
      compare();
    }
  }

  return {node: el('div', {class: 'columns'}, controls, result), needsW: false,
    activate};
}
