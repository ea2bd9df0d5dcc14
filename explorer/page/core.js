// What all tabs share: requests, settings, pictures that are kept, and parts of pages.

// ---- Elements ----

/** Make an element: el('button', {class: 'main', onclick: f}, 'Text', child, ...). */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'style') node.style.cssText = value;  // The page's policy forbids the attribute.
    else if (typeof value === 'boolean') node.toggleAttribute(name, value);
    else if (value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

let messageTimer = 0;

/** Show a message at the bottom of the page. Errors stay until they are closed. */
export function say(text, isError = false) {
  const box = byId('message');
  clearTimeout(messageTimer);
  box.replaceChildren(text, el('button', {'aria-label': 'Close', onclick: () => { box.hidden = true; }}, '×'));
  box.classList.toggle('error', isError);
  box.hidden = false;
  if (!isError) messageTimer = setTimeout(() => { box.hidden = true; }, 4000);
}

/** Show an exception, unless it only says that a request was given up. */
export function complain(error) {
  if (error.name !== 'AbortError') say(error.message, true);
}

// ---- Requests ----

/** Send a request, and return the response. An answer that is an error becomes an exception with its text. */
export async function send(path, body, {signal, method = 'POST'} = {}) {
  let response;
  try {
    response = await fetch(path, {method, body, signal, headers: {'X-Explorer': '1'}});
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The explorer does not answer. Is run_explorer.py still running?');
  }
  if (response.ok) return response;
  let text = `The explorer answers ${response.status}.`;
  try {
    const {error, remedy} = await response.json();
    text = error.charAt(0).toUpperCase() + error.slice(1) + (remedy ? `. ${remedy}` : '.');
  } catch { /* Not one of its own answers. */ }
  throw new Error(text);
}

export const post = async (name, data, options) =>
  (await send(`api/${name}`, JSON.stringify(data), options)).json();

export const get = async (name) => (await send(`api/${name}`, undefined, {method: 'GET'})).json();

/** Let the browser save a blob. */
export function download(blob, name) {
  const link = el('a', {href: URL.createObjectURL(blob), download: name});
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** Ask about a job until it has ended, and call onStatus with each answer. */
export async function follow(job, onStatus) {
  for (;;) {
    onStatus(job);
    if (job.state !== 'running') return job;
    await new Promise((resolve) => setTimeout(resolve, 400));
    job = await get(`jobs/${job.id}`);
  }
}

export const duration = (seconds) => seconds === null ? '' :
  seconds < 60 ? `${Math.ceil(seconds)} s left` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s left`;

// ---- State ----

export const state = {
  info: null,       // What the explorer has: see Explorer._info.
  net: null,        // The network that is chosen: see Loaded.info.
  network: 0,       // Its number.
  psi: 0.7, class: null, noise: 'fixed', precision: 'float32', noiseSeed: 0,
  kept: [],         // Pictures that every tab can start from: {name, recipe}.
  keys: [],         // Keyframes of the walk: {recipe, name, thumb}.
};

const listeners = {};

/** Call a function whenever something of this kind changes: 'net', 'settings', 'kept' or 'keys'. */
export const on = (kind, listener) => (listeners[kind] ??= []).push(listener);
export const changed = (kind) => (listeners[kind] ?? []).forEach((listener) => listener());

export const seedRecipe = (seed) => ({kind: 'seed', seed, psi: state.psi, class: state.class});

/** Keep a picture for the other tabs. */
export function keep(name, recipe) {
  const names = new Set(state.kept.map((kept) => kept.name));
  let unique = name;
  for (let number = 2; names.has(unique); number++) unique = `${name} ${number}`;
  state.kept.push({name: unique, recipe});
  changed('kept');
}

export const randomSeed = () => Math.floor(Math.random() * 100000);

// ---- Parts of pages ----

/** A slider with its name and value. The name can be changed if onRename is given. */
export function slider(name, {min, max, step, value, onInput, onChange, onRename}) {
  const output = el('output', {}, Number(value).toFixed(2));
  const input = el('input', {type: 'range', min, max, step, value, 'aria-label': name});
  input.addEventListener('input', () => {
    output.value = Number(input.value).toFixed(2);
    onInput(Number(input.value));
  });
  input.addEventListener('change', () => onChange?.(Number(input.value)));
  input.addEventListener('dblclick', () => { node.set(value); onInput(value); onChange?.(value); });
  const label = el('span', {title: name}, name);
  if (onRename) {
    label.className = 'editable';
    label.title = 'Click to give it another name';
    label.tabIndex = 0;
    label.addEventListener('click', onRename);
    label.addEventListener('keydown', (event) => { if (event.key === 'Enter') onRename(); });
  }
  const node = el('div', {class: 'slider'}, label, input, output);
  node.set = (x) => { input.value = x; output.value = Number(x).toFixed(2); };
  node.rename = (text) => { label.textContent = text; input.setAttribute('aria-label', text); };
  return node;
}

/** A choice of a picture: a seed, or one that was kept. `picker.recipe()` is its recipe. */
export function picker(label, seed, onChange) {
  const number = el('input', {type: 'number', min: 0, max: 4294967295, step: 1, value: seed,
    'aria-label': `${label}: seed`, class: 'seed'});
  const select = el('select', {'aria-label': label});
  const roll = () => { number.value = randomSeed(); onChange(); };
  const dice = el('button', {title: 'Random seed', 'aria-label': `${label}: random seed`, onclick: roll}, '⟳');
  const node = el('div', {class: 'row'}, el('label', {}, label, select), number, dice);
  const fill = () => {
    const old = select.value;
    select.replaceChildren(el('option', {value: 'seed'}, 'Seed'),
      ...state.kept.map(({name}, index) => el('option', {value: index}, name)));
    select.value = old || 'seed';
  };
  const update = () => { number.hidden = dice.hidden = select.value !== 'seed'; };
  select.addEventListener('change', () => { update(); onChange(); });
  number.addEventListener('change', () => onChange());
  on('kept', fill);
  fill();
  node.isSeed = () => select.value === 'seed';
  node.seed = () => Math.min(Math.max(Math.floor(Number(number.value)) || 0, 0), 4294967295);
  node.recipe = () => node.isSeed() ? seedRecipe(node.seed()) : state.kept[Number(select.value)].recipe;
  node.choose = (index) => { select.value = String(index); update(); onChange(); };
  node.select = select;
  return node;
}

/** A command, with a button that copies it. `box.set(text)` changes it. */
export function commandBox(label) {
  const code = el('code', {tabindex: 0, 'aria-label': label});
  const button = el('button', {onclick: copy, disabled: true}, 'Copy');
  const node = el('div', {class: 'command'}, code, button);
  node.set = (text) => { code.textContent = text; button.disabled = !text; };

  async function copy() {
    try {
      await navigator.clipboard.writeText(code.textContent);
      say('Copied.');
    } catch {  // The browser asks for HTTPS.
      getSelection().selectAllChildren(code);
      say('Press Ctrl-C to copy what is selected.');
    }
  }
  return node;
}

/** What a picture request says besides the recipe. */
export const drawing = () => ({
  network: state.network, precision: state.precision, noise: state.noise, noise_seed: state.noiseSeed,
});

/** Draw a picture: {blob, command}. */
export async function draw(request, signal) {
  const response = await send('api/picture', JSON.stringify(request), {signal});
  return {blob: await response.blob(), command: decodeURIComponent(response.headers.get('X-Command') ?? '')};
}

export const isSmall = () => state.net.resolution < 256;

/** An image of a blob. */
export function image(blob, alt, width) {
  const node = el('img', {src: URL.createObjectURL(blob), alt, width, class: isSmall() ? 'pixelated' : ''});
  node.addEventListener('load', () => URL.revokeObjectURL(node.src), {once: true});
  return node;
}

/** A small copy of a picture, as data URL. */
export function thumbnail(picture) {
  const canvas = el('canvas', {width: 96, height: 96});
  const context = canvas.getContext('2d');
  context.imageSmoothingEnabled = picture.naturalWidth > 96;
  context.drawImage(picture, 0, 0, 96, 96);
  return canvas.toDataURL();
}
