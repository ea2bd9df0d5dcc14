// Tab Project: find the latent of a photo, and watch how.

import {commandBox, complain, duration, el, follow, keep, say, send, state} from './core.js';
import {Stage} from './stage.js';

export function projectTab() {
  let photo = null;
  let job = null;
  const stage = new Stage(() => photo?.name ?? 'Photo');
  const input = el('input', {type: 'file', accept: 'image/*,.npz', id: 'photo',
    onchange: () => choose(input.files[0])});
  const preview = el('img', {alt: 'The photo', hidden: true});
  const text = el('span', {}, 'Drop a photo here, or click to choose one');
  const drop = el('label', {class: 'drop'}, preview, text, input);
  const steps = el('input', {type: 'number', class: 'short', id: 'steps', min: 1, max: 5000, step: 1, value: 400});
  const distance = el('select', {id: 'distance'}, ...['lpips', 'vgg-hed', 'pixel'].map((name) =>
    el('option', {value: name}, state.info.distances.includes(name) ? name : `${name} (weights are missing)`)));
  distance.value = state.info.distances[0];
  const wplus = el('input', {type: 'checkbox'});
  const align = el('input', {type: 'checkbox', id: 'align', disabled: !state.info.align});
  const start = el('button', {class: 'main', id: 'project', disabled: true, onclick: () => project()}, 'Project');
  const stop = el('button', {id: 'stop', hidden: true, onclick: () => send(`api/jobs/${job.id}/stop`).catch(complain)},
    'Stop');
  const bar = el('progress', {max: 1, value: 0, hidden: true, 'aria-label': 'Progress of the projection'});
  const status = el('p', {class: 'hint', role: 'status', id: 'project-status'});
  const command = commandBox('Command that projects this photo');
  const controls = el('div', {class: 'panel controls'},
    el('h2', {}, 'Photo'), drop,
    el('p', {class: 'hint'}, 'Photos stay on the machine of the explorer. ' +
      'A dlatents.npz of run_projector.py works, too.'),
    el('h2', {}, 'Projection'),
    el('div', {class: 'row'}, el('label', {}, 'Steps', steps)),
    el('div', {class: 'row'}, el('label', {}, 'Distance', distance)),
    el('div', {class: 'row'}, el('label', {}, wplus, 'A latent for each layer: closer, less typical')),
    el('div', {class: 'row'}, el('label', {title: state.info.align ? '' : "Needs: pip install -e '.[align]'"}, align,
      'Cut out the face, as for FFHQ', state.info.align ? '' : ' (extra [align] is missing)')),
    el('div', {class: 'row'}, start, stop), bar, status,
    el('h2', {}, 'The same by command'), command);

  function choose(file) {
    if (!file) return;
    photo = file;
    const isImage = file.type.startsWith('image/');
    if (isImage) preview.src = URL.createObjectURL(file);
    preview.hidden = !isImage;
    text.textContent = file.name;
    start.disabled = job?.state === 'running';
    status.textContent = '';
    showCommand();
  }

  function showCommand() {
    const words = [`--num-steps=${steps.value}`, `--distance=${distance.value}`, ...(wplus.checked ? ['--wplus'] : []),
      ...(align.checked ? ['--align'] : [])];
    const file = photo ? `'${photo.name.replaceAll("'", "'\\''")}'` : 'PHOTO';
    command.set(state.net ? `python run_projector.py project-real-images --network=${state.net.quoted} ` +
      `--images ${file} ${words.join(' ')}` : '');
  }

  async function project() {
    if (photo.size > state.info.max_upload) {
      say(`${photo.name} has more than ${state.info.max_upload / 2 ** 20} MiB. Choose a smaller file.`, true);
      return;
    }
    start.disabled = true;
    const name = photo.name;
    const options = {network: state.network, name, steps: Number(steps.value), distance: distance.value,
      wplus: wplus.checked, align: align.checked};
    try {
      status.textContent = 'Sending the photo …';
      const path = `api/project?options=${encodeURIComponent(JSON.stringify(options))}`;
      const answer = await (await send(path, photo)).json();
      if (answer.latents) {
        answer.latents.forEach((recipe) => keep(recipe.name, recipe));
        status.textContent = '';
        say(`${answer.latents.length} projected images. All tabs offer them now.`);
        stage.draw(answer.latents[0]);
        return;
      }
      job = answer;
      bar.hidden = stop.hidden = false;
      let version = 0;
      await follow(job, (now) => {
        job = now;
        bar.value = now.step / now.total;
        status.textContent = `Step ${now.step} of ${now.total}: ${now.note}. ${duration(now.seconds_left)}`;
        if (now.version > version) {
          version = now.version;
          const picture = el('img', {src: `api/jobs/${now.id}/picture?version=${version}`, alt: `Step ${now.step}`,
            class: state.net.resolution < 256 ? 'pixelated' : ''});
          picture.dataset.kind = 'step';
          stage.frame.replaceChildren(picture, el('span', {class: 'badge'}, `step ${now.step}`));
        }
      });
      if (job.state === 'failed') throw new Error(job.note);
      status.textContent = `${job.state === 'done' ? 'Done' : 'Stopped'} after ${job.step} steps: ${job.note}.`;
      if (job.result) {
        keep(`${job.result.name} (projected)`, job.result);
        say('All tabs offer this projection now.');
        stage.draw(job.result);
      }
    } catch (error) {
      status.textContent = '';
      complain(error);
    } finally {
      start.disabled = false;
      bar.hidden = stop.hidden = true;
    }
  }

  for (const type of ['dragover', 'dragleave', 'drop']) {
    drop.addEventListener(type, (event) => {
      event.preventDefault();
      drop.classList.toggle('over', type === 'dragover');
      if (type === 'drop') choose(event.dataTransfer.files[0]);
    });
  }
  for (const node of [steps, distance, wplus, align]) node.addEventListener('change', showCommand);
  return {node: el('div', {class: 'columns'}, controls, stage.node), activate: showCommand};
}
