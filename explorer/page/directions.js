// Tab Directions: a slider for each direction in W.

import {complain, el, on, picker, post, slider, state} from './core.js';
import {Stage} from './stage.js';
import {blocks} from './mix.js';

export function directionsTab() {
  let strengths = {};
  let loaded = '';   // Which directions are shown.
  const base = picker('Start', 0, () => update());
  const stage = new Stage(() => 'Edited picture');
  const names = {file: (state.info.directions ?? '').split(/[/\\]/).pop(), sefa: 'SeFa: by weights',
    pca: 'PCA: by variance of W'};
  const sets = state.info.directions ? ['file', 'sefa', 'pca'] : ['sefa', 'pca'];
  const set = el('select', {id: 'directions-set', onchange: () => { loaded = ''; activate(); }},
    ...sets.map((value) => el('option', {value}, names[value])));
  const layers = el('select', {id: 'directions-layers', onchange: () => update()});
  const sliders = el('div', {id: 'directions-sliders'});
  const range = el('select', {onchange: () => { loaded = ''; activate(); }},
    ...[3, 6, 12].map((value) => el('option', {value}, `−${value} to ${value}`)));
  const hint = el('p', {class: 'hint'});
  const controls = el('div', {class: 'panel controls'},
    el('h2', {}, 'Picture'), base,
    el('h2', {}, 'Directions'),
    el('div', {class: 'row'}, el('label', {}, 'From', set)),
    el('div', {class: 'row'}, el('label', {}, 'Layers', layers)),
    el('div', {class: 'row'}, el('label', {}, 'Standard deviations', range)),
    sliders,
    el('div', {class: 'row'}, el('button', {onclick: () => { loaded = ''; activate(); }}, 'All to 0')), hint);

  function recipe() {
    const chosen = Object.fromEntries(Object.entries(strengths).filter(([, value]) => value !== 0));
    return {kind: 'edit', base: base.recipe(), set: set.value, network: state.network, strengths: chosen,
      layers: layers.value ? JSON.parse(layers.value) : null};
  }

  const update = (moving = false) => stage.draw(recipe(), moving);

  async function rename(index, row, old) {
    const name = prompt('Name of this direction', old);
    if (!name || name === old) return;
    try {
      await post('name', {index, name});
      row.rename(name);
    } catch (error) {
      complain(error);
    }
  }

  async function activate(moving = false) {
    const key = JSON.stringify([set.value, set.value === 'file' || state.network]);
    if (key !== loaded) {
      sliders.replaceChildren(el('p', {class: 'hint'}, 'Computing the directions …'));
      try {
        const found = await post('directions', {network: state.network, set: set.value});
        strengths = {};
        const most = Number(range.value);
        sliders.replaceChildren(...found.map(({name, share}, index) => {
          const row = slider(name || (share === null ? `${index}` : `${index}  (${(100 * share).toFixed(1)}%)`), {
            min: -most, max: most, step: most / 60, value: 0,
            onInput: (value) => { strengths[index] = value; update(true); }, onChange: () => update(),
            onRename: set.value === 'file' ? () => rename(index, row, name) : undefined,
          });
          return row;
        }));
        loaded = key;
        hint.textContent = set.value === 'file' ? 'Click a name to change it; it is written into the file.' :
          'In brackets: the share of what the method explains. Directions of a file (--directions) can have names.';
      } catch (error) {
        sliders.replaceChildren();
        complain(error);
        return;
      }
    }
    update(moving);
  }

  on('net', () => {
    loaded = '';
    layers.replaceChildren(el('option', {value: ''}, 'as found'),
      ...blocks(state.net.layers).filter(([, from, to]) => to > from).map(([name, from, to]) => el('option', {
        value: JSON.stringify(Array.from({length: to - from}, (_, index) => from + index)),
      }, `${name.toLowerCase()}: ${from}–${to - 1}`)));
  });
  return {node: el('div', {class: 'columns'}, controls, stage.node), activate: () => activate(state.moving)};
}
