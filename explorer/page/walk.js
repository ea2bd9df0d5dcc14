// Tab Walk: keyframes in a strip, a look at the walk, and its film.

import {changed, commandBox, complain, download, draw, drawing, duration, el, follow, image, on, post, randomSeed,
  seedRecipe, send, slider, state, thumbnail} from './core.js';
import {Stage} from './stage.js';

export function walkTab() {
  let position = 0;
  let player = null;
  let job = null;
  const stage = new Stage(() => `Walk at ${position.toFixed(2)}`);
  const strip = el('ol', {class: 'strip', id: 'strip', 'aria-label': 'Keyframes'});
  const where = slider('Position', {min: 0, max: 1, step: 0.02, value: 0,
    onInput: (value) => { position = value; look(true); }, onChange: () => look()});
  const field = (label, input) => el('div', {class: 'row'}, el('label', {}, label, input));
  const seconds = el('input', {type: 'number', class: 'short', min: 0.1, max: 60, step: 0.1, value: 2});
  const fps = el('input', {type: 'number', class: 'short', min: 1, max: 60, step: 1, value: 30});
  const curve = el('select', {onchange: () => show()},
    ...['spline', 'linear', 'slerp'].map((name) => el('option', {}, name)));
  const loop = el('input', {type: 'checkbox', onchange: () => show()});
  const format = el('select', {}, ...state.info.formats.map((name) => el('option', {}, name)));
  const play = el('button', {id: 'play', onclick: () => player ? stop() : start()}, '▶ Play');
  const make = el('button', {class: 'main', id: 'make-film', onclick: () => film()}, 'Make film');
  const cancel = el('button', {hidden: true, onclick: () => send(`api/jobs/${job.id}/stop`).catch(complain)}, 'Stop');
  const bar = el('progress', {max: 1, value: 0, hidden: true, 'aria-label': 'Progress of the film'});
  const status = el('p', {class: 'hint', role: 'status'});
  const result = el('div', {class: 'panel', hidden: true});
  const command = commandBox('Command that makes this film');
  const controls = el('div', {class: 'panel controls'},
    el('h2', {}, 'Look'), where, el('div', {class: 'row'}, play),
    el('h2', {}, 'Film'),
    field('Seconds from key to key', seconds), field('Frames per second', fps), field('Curve', curve),
    field('Format', format), el('div', {class: 'row'}, el('label', {}, loop, 'Back to the first one')),
    el('div', {class: 'row'}, make, cancel), bar, status,
    el('h2', {}, 'The same by command'),
    command,
    el('div', {class: 'row'}, el('button', {onclick: () => saveKeys()}, 'Download walk.npz')));
  const add = el('div', {class: 'row'},
    el('button', {id: 'add-random', onclick: () => addSeed(randomSeed())}, 'Add a random seed'),
    el('button', {onclick: () => { state.keys = []; changed('keys'); }}, 'Remove all'),
    el('span', {class: 'hint'}, 'Every tab can add its picture with “Add to walk”.'));

  const keys = () => state.keys.map(({recipe}) => recipe);
  const shape = () => ({curve: curve.value, loop: loop.checked});
  const end = () => loop.checked ? state.keys.length : Math.max(state.keys.length - 1, 0);

  function look(moving = false) {
    [...strip.children].forEach((item, index) =>
      item.setAttribute('aria-current', String(index === Math.round(position) % Math.max(state.keys.length, 1))));
    if (state.keys.length) stage.draw({kind: 'walk', keys: keys(), position, ...shape()}, moving);
  }

  async function addSeed(seed) {
    try {
      const recipe = seedRecipe(seed);
      const {blob} = await draw({...drawing(), recipe});
      const picture = image(blob, '');
      await picture.decode();
      state.keys.push({recipe, name: `Seed ${seed}`, thumb: thumbnail(picture)});
      changed('keys');
    } catch (error) {
      complain(error);
    }
  }

  function move(index, step) {
    const [key] = state.keys.splice(index, 1);
    state.keys.splice(index + step, 0, key);
    changed('keys');
    strip.children[index + step].querySelector('.key').focus();
  }

  function show() {
    strip.replaceChildren(...state.keys.map(({name, thumb}, index) => {
      const item = el('li', {draggable: 'true'},
        el('button', {class: 'key', title: `${name}: go there`, 'aria-label': `Keyframe ${index + 1}: ${name}`,
          onclick: () => { position = index; where.set(index); look(); },
          onkeydown: (event) => {
            const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
            if (event.altKey && step && state.keys[index + step]) { event.preventDefault(); move(index, step); }
          }}, el('img', {src: thumb, alt: ''})),
        name,
        el('div', {class: 'tools'},
          el('button', {title: 'Earlier', 'aria-label': `Move ${name} to the left`, disabled: index === 0,
            onclick: () => move(index, -1)}, '←'),
          el('button', {title: 'Remove', 'aria-label': `Remove ${name}`,
            onclick: () => { state.keys.splice(index, 1); changed('keys'); }}, '×'),
          el('button', {title: 'Later', 'aria-label': `Move ${name} to the right`,
            disabled: index === state.keys.length - 1, onclick: () => move(index, 1)}, '→')));
      item.addEventListener('dragstart', (event) => event.dataTransfer.setData('text/plain', String(index)));
      item.addEventListener('dragover', (event) => event.preventDefault());
      item.addEventListener('drop', (event) => {
        event.preventDefault();
        const from = Number(event.dataTransfer.getData('text/plain'));
        if (state.keys[from]) move(from, index - from);
      });
      return item;
    }));
    if (!state.keys.length) {
      strip.append(el('li', {style: 'flex: 1; padding: 40px 0'}, 'No keyframes yet: add two or more.'));
    }
    where.querySelector('input').max = Math.max(end(), 0.01);
    position = Math.min(position, end());
    where.set(position);
    play.disabled = state.keys.length < 2;
    make.disabled = state.keys.length === 0 || (job !== null && job.state === 'running');
    const words = [`--seconds-per-seed=${seconds.value}`, `--fps=${fps.value}`, `--curve=${curve.value}`,
      ...(loop.checked ? ['--loop'] : []), `--format=${format.value}`];
    command.set(state.net ? 'python run_generator.py generate-video ' +
      `--network=${state.net.quoted} --dlatents=walk.npz ${words.join(' ')}` : '');
    look();
  }

  function start() {
    play.textContent = '■ Stop';
    let last = performance.now();
    const tick = async (now) => {
      position += (now - last) / 1000 / Number(seconds.value || 2);
      last = now;
      if (position > end()) position = loop.checked ? position % end() : 0;
      where.set(position);
      if (!stage.busy) look(true);
      player = player && requestAnimationFrame(tick);
    };
    player = requestAnimationFrame((now) => { last = now; tick(now); });
  }

  function stop() {
    cancelAnimationFrame(player);
    player = null;
    play.textContent = '▶ Play';
    look();
  }

  async function film() {
    make.disabled = true;
    result.hidden = true;
    try {
      job = await post('film', {...drawing(), keys: keys(), ...shape(), seconds: Number(seconds.value),
        fps: Number(fps.value), format: format.value});
      bar.hidden = cancel.hidden = false;
      await follow(job, (now) => {
        job = now;
        bar.value = now.step / now.total;
        status.textContent = `Frame ${now.step} of ${now.total}. ${duration(now.seconds_left)}`;
      });
      status.textContent = {done: `${job.total} frames.`, stopped: 'Stopped.', failed: ''}[job.state];
      if (job.state === 'failed') throw new Error(job.note);
      if (job.state === 'done') showFilm();
    } catch (error) {
      complain(error);
    } finally {
      make.disabled = false;
      bar.hidden = cancel.hidden = true;
    }
  }

  function showFilm() {
    const address = `api/jobs/${job.id}/file`;
    const player = format.value === 'gif' ? el('img', {src: address, alt: 'The film'}) :
      el('video', {src: address, controls: true, loop: true, autoplay: true, muted: true});
    result.replaceChildren(el('h2', {}, 'Film'), el('div', {class: 'picture'}, player),
      el('div', {class: 'row'}, el('a', {href: address, download: `film.${format.value}`}, 'Download the film')));
    result.hidden = false;
    result.scrollIntoView({behavior: 'smooth', block: 'nearest'});
  }

  async function saveKeys() {
    try {
      const response = await send('api/npz', JSON.stringify({...drawing(), recipes: keys()}));
      download(await response.blob(), 'walk.npz');
    } catch (error) {
      complain(error);
    }
  }

  for (const input of [seconds, fps, format]) input.addEventListener('change', show);
  on('keys', show);
  on('net', show);
  show();
  return {
    node: el('div', {}, el('div', {class: 'panel'}, el('h2', {}, 'Keyframes'), strip, add), el('br'),
      el('div', {class: 'columns'}, controls, el('div', {}, stage.node, el('br'), result))),
    activate: () => look(state.moving),
  };
}
