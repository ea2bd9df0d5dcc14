// Tab Mix: two pictures, a slider for each block of layers, and a grid of mixed seeds.

import {commandBox, complain, draw, drawing, el, image, on, picker, seedRecipe, slider, state} from './core.js';
import {Stage} from './stage.js';

/** Names and layers of the three blocks: coarse, middle, fine, at 4 of 18, 8 of 18 as in the paper on StyleGAN. */
export function blocks(layers) {
  const middle = Math.max(Math.round(layers * 4 / 18), 1);
  const fine = Math.max(Math.round(layers * 8 / 18), middle + 1);
  return [['Coarse', 0, middle], ['Middle', middle, fine], ['Fine', fine, layers]];
}

const numbers = (text) => text.split(',').map((part) => part.trim()).filter((part) => /^\d{1,9}$/.test(part))
  .slice(0, 8).map(Number);

export function mixTab() {
  let amounts = [];
  let gridAbort = null;
  const a = picker('A', 0, () => update());
  const b = picker('B', 1, () => update());
  const stage = new Stage(() => 'Mixture');
  const sliders = el('div');
  const each = el('input', {type: 'checkbox', onchange: () => fill()});
  const rows = el('input', {type: 'text', value: '0,1,2', 'aria-label': 'Seeds of the rows'});
  const columns = el('input', {type: 'text', value: '3,4,5,6', 'aria-label': 'Seeds of the columns'});
  const grid = el('div', {class: 'panel scroll', hidden: true});
  const controls = el('div', {class: 'panel controls'},
    el('h2', {}, 'Two pictures'), a, b,
    el('h2', {}, 'How much of B'), sliders,
    el('div', {class: 'row'}, el('label', {}, each, 'A slider for each layer'),
      el('button', {onclick: () => { fill(); update(); }}, 'Only A')),
    el('p', {class: 'hint'}, 'Coarse layers decide on pose and shape, fine ones on colours and texture.'),
    el('h2', {}, 'Grid'),
    el('div', {class: 'row'}, el('label', {}, 'Rows', rows)),
    el('div', {class: 'row'}, el('label', {}, 'Columns', columns)),
    el('div', {class: 'row'}, el('button', {id: 'draw-grid', onclick: () => drawGrid()}, 'Draw grid')),
    el('p', {class: 'hint'}, 'Pictures of the grid take the coarse layers of their column, the others of their row.'));

  function fill() {
    amounts = Array(state.net.layers).fill(0);
    const groups = each.checked ? amounts.map((_, layer) => [`Layer ${layer}`, layer, layer + 1]) :
      blocks(state.net.layers);
    sliders.replaceChildren(...groups.filter(([, from, to]) => to > from).map(([name, from, to]) => slider(name, {
      min: 0, max: 1, step: 0.05, value: 0,
      onInput: (value) => { amounts.fill(value, from, to); update(true); }, onChange: () => update(),
    })));
  }

  function update(moving = false) {
    stage.draw({kind: 'mix', a: a.recipe(), b: b.recipe(), amounts: [...amounts]}, moving);
  }

  async function drawGrid() {
    gridAbort?.abort();
    const abort = gridAbort = new AbortController();
    const layers = state.net.layers;
    const last = Math.max(Math.round(layers * 7 / 18), 1);  // As in style-mixing-example.
    const coarse = Array.from({length: layers}, (_, layer) => layer < last ? 1 : 0);
    const [rowSeeds, columnSeeds] = [numbers(rows.value), numbers(columns.value)];
    const width = Math.min(state.net.resolution < 128 ? 96 : 150, 150);
    const table = el('table', {class: 'grid'});
    const cells = [];
    const cell = (recipe, name) => {
      const node = el('div', {class: 'cell', style: `width:${width}px;height:${width}px`});
      cells.push({node, recipe, name});
      return el('td', {}, node);
    };
    table.append(el('tr', {}, el('th'), ...columnSeeds.map((seed) => cell(seedRecipe(seed), `Column, seed ${seed}`))));
    for (const row of rowSeeds) {
      table.append(el('tr', {}, cell(seedRecipe(row), `Row, seed ${row}`), ...columnSeeds.map((column) => cell(
        {kind: 'mix', a: seedRecipe(row), b: seedRecipe(column), amounts: coarse}, `Row ${row}, column ${column}`))));
    }
    const label = state.class === null ? '' : ` --class=${state.class}`;
    const command = `python run_generator.py style-mixing-example --network=${state.net.quoted} ` +
      `--row-seeds=${rowSeeds.join(',')} --col-seeds=${columnSeeds.join(',')} --truncation-psi=${state.psi}${label}`;
    const box = commandBox('Command that makes such a grid');
    box.set(command);
    grid.replaceChildren(el('h2', {}, 'Grid'), table, box);
    grid.hidden = false;
    try {
      for (const {node, recipe, name} of cells) {  // With the noise of the network's file, as style-mixing-example.
        const {blob} = await draw({...drawing(), noise: 'file', recipe}, abort.signal);
        node.append(image(blob, name, width));
      }
    } catch (error) {
      complain(error);
    }
  }

  on('net', () => { if (state.net.layers) fill(); gridAbort?.abort(); grid.hidden = true; });
  return {node: el('div', {class: 'columns'}, controls, el('div', {}, stage.node, el('br'), grid)),
    activate: () => update(state.moving)};
}
