// Starts the page: settings, tabs, and the network that is chosen.

import {byId, changed, complain, el, get, on, post, say, state} from './core.js';
import {generateTab} from './generate.js';
import {mixTab} from './mix.js';
import {walkTab} from './walk.js';
import {directionsTab} from './directions.js';
import {projectTab} from './project.js';
import {compareTab} from './compare.js';

const tabs = [];  // {name, button, panel, activate, deactivate, needsW}
let current = null;

function addTab(name, {node, activate = () => {}, deactivate = () => {}, needsW = true}) {
  const id = name.toLowerCase();
  const button = el('button', {role: 'tab', id: `tab-${id}`, 'aria-controls': `panel-${id}`, 'aria-selected': 'false',
    tabindex: -1, onclick: () => choose(tab)}, name);
  const panel = el('section', {role: 'tabpanel', id: `panel-${id}`, 'aria-labelledby': `tab-${id}`, hidden: true},
    node);
  const tab = {name, button, panel, activate, deactivate, needsW};
  tabs.push(tab);
  byId('tabs').append(button);
  byId('main').append(panel);
}

function choose(tab) {
  if (current && current !== tab) current.deactivate();
  for (const other of tabs) {
    const isIt = other === tab;
    other.button.setAttribute('aria-selected', String(isIt));
    other.button.tabIndex = isIt ? 0 : -1;
    other.panel.hidden = !isIt;
  }
  current = tab;
  tab.activate();
}

byId('tabs').addEventListener('keydown', (event) => {
  const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  const visible = tabs.filter(({button}) => !button.hidden);
  if (!step) return;
  const tab = visible[(visible.indexOf(current) + step + visible.length) % visible.length];
  choose(tab);
  tab.button.focus();
});

async function chooseNetwork(index) {
  const select = byId('network');
  select.disabled = true;
  const timer = setTimeout(() => say('Reading the network …'), 600);
  try {
    state.net = await post('network', {network: index});
    state.network = index;
  } catch (error) {
    complain(error);
    select.value = state.network;
    return;
  } finally {
    clearTimeout(timer);
    select.disabled = false;
  }
  const {net} = state;
  byId('psi-label').hidden = net.layers === 0;
  byId('noise-label').hidden = !net.has_noise;
  byId('class-label').hidden = net.classes === 0;
  byId('class').replaceChildren(el('option', {value: ''}, 'none'),
    ...Array.from({length: net.classes}, (_, number) => el('option', {value: number}, number)));
  state.class = null;
  for (const tab of tabs) tab.button.hidden = tab.needsW && net.layers === 0;
  if (current?.button.hidden) choose(tabs[0]);
  changed('net');
  changed('settings');
}

function settingsChanged(moving) {
  state.psi = Number(byId('psi').value);
  byId('psi-value').value = state.psi.toFixed(2);
  state.class = byId('class').value === '' ? null : Number(byId('class').value);
  state.noise = byId('noise').value;
  state.precision = byId('precision').value;
  state.moving = moving;
  changed('settings');
  state.moving = false;
}

async function start() {
  state.info = await get('info');
  byId('loading').remove();
  byId('network').replaceChildren(...state.info.networks.map((label, index) => el('option', {value: index}, label)));
  byId('precision').replaceChildren(...state.info.precisions.map((name) => el('option', {}, name)));
  byId('precision').value = state.precision = state.info.precision;
  byId('network').addEventListener('change', () => chooseNetwork(Number(byId('network').value)));
  byId('psi').addEventListener('input', () => settingsChanged(true));
  for (const id of ['psi', 'class', 'noise', 'precision']) {
    byId(id).addEventListener('change', () => settingsChanged(false));
  }
  addTab('Generate', generateTab());
  addTab('Mix', mixTab());
  addTab('Walk', walkTab());
  addTab('Directions', directionsTab());
  addTab('Project', projectTab());
  addTab('Compare', compareTab());
  const walk = tabs.find(({name}) => name === 'Walk');
  on('keys', () => { walk.button.textContent = state.keys.length ? `Walk (${state.keys.length})` : 'Walk'; });
  on('settings', () => current?.activate());
  state.psi = Number(byId('psi').value);  // Browsers keep what was there before the page was loaded again.
  byId('psi-value').value = state.psi.toFixed(2);
  byId('network').value = 0;
  state.noise = byId('noise').value;
  await chooseNetwork(0);
  choose(tabs[0]);
}

start().catch(complain);
