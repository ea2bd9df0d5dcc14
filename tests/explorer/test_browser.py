"""The explorer in a browser: every tab, the messages for mistakes, and that nothing is fetched from elsewhere."""

import json
import shlex
import shutil
import time

import numpy as np
import PIL.Image
import pytest

import run_generator
from tests.explorer.serving import FACES, pixels, serving

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium: apt-get install chromium')
sync_api = pytest.importorskip('playwright.sync_api', reason="needs Playwright: pip install -e '.[dev]'")


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('browser')


@pytest.fixture(scope='module')
def address(folder):
    (folder / 'broken.pkl').write_bytes(b'no network')
    run_generator.main(['find-directions', f'--network={FACES}', '--num=3', '--num-samples=100', '--seeds=0',
                        f'--result-dir={folder}'])
    directions = next(folder.rglob('directions.npz'))
    with serving([FACES, str(folder / 'broken.pkl')], directions=str(directions)) as where:
        yield where


@pytest.fixture(scope='module')
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, address):
    """A page of the explorer whose first picture is there. At the end, it must have complained of nothing."""
    context = browser.new_context(viewport=dict(width=1366, height=768))
    opened = open_page(context, address)
    yield opened
    context.close()
    assert not opened.complaints
    assert opened.requested and all(url.startswith((address, f'blob:{address}', 'data:')) for url in opened.requested)


def open_page(context, address):
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.complaints, page.requested = [], []
    page.on('console', lambda message: page.complaints.append(message.text)
            if 'Failed to load resource' not in message.text else None)  # Answers that are messages.
    page.on('pageerror', lambda error: page.complaints.append(str(error)))
    page.on('request', lambda request: page.requested.append(request.url))
    page.goto(address)
    drawn(page, 'generate')
    return page


def panel(page, tab):
    return page.locator(f'#panel-{tab}')


def go(page, tab):
    page.click(f'#tab-{tab}')
    return panel(page, tab)


def drawn(page, tab):
    """Wait until the whole picture of a tab is there."""
    panel(page, tab).locator('.picture:not(.busy) img[data-kind=full]').wait_for()


def saved(page, tab, button):
    """The file that a button lets the browser save: (name, path)."""
    with page.expect_download() as download:
        panel(page, tab).get_by_role('button', name=button).click()
    return download.value.suggested_filename, download.value.path()


def message(page):
    page.locator('#message').wait_for()
    return page.locator('#message').inner_text()


def made_by(command, folder):
    """Pixels of the one picture that a command makes."""
    before = set(folder.rglob('*.png'))
    run_generator.main([*shlex.split(command)[2:], f'--result-dir={folder}'])
    path, = set(folder.rglob('*.png')) - before
    return pixels(path)


def test_generate(page, tmp_path):
    tab = panel(page, 'generate')
    page.fill('#seed', '41')
    tab.get_by_role('button', name='Next').click()
    assert page.input_value('#seed') == '42'
    tab.get_by_role('button', name='Previous').click()
    page.locator('#psi').fill('1')
    command = tab.locator('.command code').filter(has_text='--seeds=41 --truncation-psi=1')
    command.wait_for()
    drawn(page, 'generate')
    name, path = saved(page, 'generate', 'Download PNG')
    assert name == 'seed0041.png'
    np.testing.assert_array_equal(pixels(path), made_by(command.inner_text(), tmp_path))
    sheet = page.locator('#sheet button')
    page.locator('#sheet button:has(img)').nth(15).wait_for()
    assert sheet.count() == 16 and sheet.nth(0).inner_text() == '42'
    sheet.nth(2).click()
    assert page.input_value('#seed') == '44'
    for _ in range(2):
        tab.get_by_role('button', name='Keep').click()
    names = panel(page, 'compare').locator('select').first.locator('option').all_text_contents()
    assert names == ['Seed', 'Seed 44', 'Seed 44 2']
    tab.get_by_role('button', name='Random').click()
    assert page.input_value('#seed') != '44'
    page.fill('#seed', '-5')
    page.keyboard.press('Enter')
    tab.locator('.command code').filter(has_text='--seeds=0 ').wait_for()
    # Noise that generate-images does not draw by itself is in the file.
    page.select_option('#noise', 'off')
    tab.locator('.command code').filter(has_text='--dlatents=seed0000.npz').wait_for()
    drawn(page, 'generate')
    (tmp_path / 'seed0000.npz').write_bytes(saved(page, 'generate', 'Download npz')[1].read_bytes())
    command = f'python run_generator.py generate-images --network={FACES} --dlatents={tmp_path / "seed0000.npz"}'
    np.testing.assert_array_equal(pixels(saved(page, 'generate', 'Download PNG')[1]), made_by(command, tmp_path))


def test_mix(page, tmp_path):
    tab = go(page, 'mix')
    drawn(page, 'mix')
    only_a = pixels(saved(page, 'mix', 'Download PNG')[1]).astype(int)
    for name in ('Coarse', 'Middle', 'Fine'):
        tab.get_by_label(name, exact=True).fill('1')
    drawn(page, 'mix')
    page.wait_for_timeout(600)
    mixed = pixels(saved(page, 'mix', 'Download PNG')[1]).astype(int)
    assert np.abs(mixed - only_a).max() > 50
    tab.get_by_label('A slider for each layer').check()
    assert tab.locator('.slider').count() == 8
    tab.get_by_role('button', name='Draw grid').click()
    tab.locator('table.grid img').nth(18).wait_for()
    assert tab.locator('table.grid img').count() == 3 * 4 + 3 + 4
    assert '--row-seeds=0,1,2 --col-seeds=3,4,5,6' in tab.locator('.grid + .command code').inner_text()


def test_walk(page):
    panel(page, 'generate').get_by_role('button', name='Add to walk').click()
    go(page, 'mix')
    drawn(page, 'mix')
    panel(page, 'mix').get_by_role('button', name='Add to walk').click()
    tab = go(page, 'walk')
    assert page.locator('#tab-walk').inner_text() == 'Walk (2)'
    page.click('#add-random')
    keys = page.locator('#strip .key')
    keys.nth(2).wait_for()
    tab.get_by_label('Move Seed 0 to the right').click()
    assert keys.nth(0).get_attribute('title').startswith('Mixture')
    keys.nth(1).press('Alt+ArrowLeft')
    assert keys.nth(0).get_attribute('title').startswith('Seed 0')
    tab.get_by_label('Remove Mixture').click()
    assert keys.count() == 2
    tab.get_by_label('Position').fill('0.5')
    drawn(page, 'walk')
    page.click('#play')
    page.wait_for_timeout(300)
    page.click('#play')
    assert float(tab.get_by_label('Position').input_value()) > 0
    tab.get_by_label('Seconds from key to key').fill('0.3')
    tab.get_by_label('Frames per second').fill('10')
    page.click('#make-film')
    video = tab.locator('video')
    video.wait_for()
    assert tab.get_by_text('4 frames.').is_visible()
    assert '--dlatents=walk.npz --seconds-per-seed=0.3 --fps=10' in tab.locator('.controls code').inner_text()
    assert saved(page, 'walk', 'Download walk.npz')[0] == 'walk.npz'


def test_directions(page, folder):
    tab = go(page, 'directions')
    sliders = page.locator('#directions-sliders input')
    sliders.nth(2).wait_for()
    drawn(page, 'directions')
    before = pixels(saved(page, 'directions', 'Download PNG')[1]).astype(int)
    sliders.nth(0).fill('3')
    page.wait_for_timeout(600)
    drawn(page, 'directions')
    assert np.abs(pixels(saved(page, 'directions', 'Download PNG')[1]) - before).max() > 20
    page.once('dialog', lambda dialog: dialog.accept('brightness'))
    tab.locator('.slider span').nth(1).click()
    tab.locator('.slider').filter(has_text='brightness').wait_for()
    with np.load(next(folder.rglob('directions.npz'))) as file:
        assert file['names'].tolist() == ['', 'brightness', '']
    page.select_option('#directions-set', 'pca')
    sliders.nth(19).wait_for()
    page.select_option('#directions-layers', label='coarse: 0–1')
    drawn(page, 'directions')


def test_project_and_stop(page, tmp_path):
    PIL.Image.fromarray(np.random.RandomState(0).randint(0, 256, [32, 32, 3], np.uint8)).save(tmp_path / 'my photo.png')
    tab = go(page, 'project')
    page.set_input_files('#photo', str(tmp_path / 'my photo.png'))
    page.select_option('#distance', 'pixel')
    page.fill('#steps', '5000')
    page.click('#project')
    tab.locator('img[data-kind=step]').wait_for()
    page.click('#stop')
    page.locator('#project-status').filter(has_text='Stopped after').wait_for()
    assert 'All tabs offer' in message(page)
    drawn(page, 'project')
    found = pixels(saved(page, 'project', 'Download PNG')[1])
    for name in ('mix', 'directions', 'compare'):
        assert 'my_photo (projected)' in go(page, name).locator('select').first.inner_text()
    go(page, 'mix').get_by_label('A', exact=True).select_option(label='my_photo (projected)')
    panel(page, 'mix').locator('.command code').filter(has_text='my_photo').wait_for()
    drawn(page, 'mix')
    np.testing.assert_array_equal(pixels(saved(page, 'mix', 'Download PNG')[1]), found)


def test_wrong_files_are_messages(page, tmp_path):
    (tmp_path / 'notes.txt').write_text('no image')
    go(page, 'project')
    page.set_input_files('#photo', str(tmp_path / 'notes.txt'))
    page.select_option('#distance', 'pixel')
    page.click('#project')
    assert message(page).startswith('Notes is not an image that can be read')
    with open(tmp_path / 'large.png', 'wb') as file:
        file.truncate(100 * 2 ** 20)
    page.set_input_files('#photo', str(tmp_path / 'large.png'))
    page.click('#project')
    page.locator('#message').filter(has_text='has more than 20 MiB').wait_for()
    assert page.locator('#project').is_enabled()


def test_compare_shows_what_can_be_read_beside_a_message_for_what_cannot(page):
    tab = go(page, 'compare')
    tab.locator('.hint').filter(has_text='6 pictures.').wait_for()
    assert tab.locator('table.grid img').count() == 3
    assert tab.locator('.cell.error').count() == 3 and 'broken.pkl' in tab.locator('.cell.error').first.inner_text()
    page.select_option('#network', '1')
    assert 'broken.pkl' in message(page)
    page.locator('#network:enabled').wait_for()
    assert page.input_value('#network') == '0'


def test_two_people_at_once(browser, address, tmp_path):
    """Each gets the pictures that they ask for, while both ask for many."""
    contexts = [browser.new_context() for _ in range(2)]
    pages = [open_page(context, address) for context in contexts]
    for number, page in enumerate(pages):
        page.select_option('#noise', ['fixed', 'off'][number])
        page.fill('#seed', str(100 + number))
        page.keyboard.press('Enter')
    for number, page in enumerate(pages):
        text = ['--seeds=100 --truncation-psi=0.7', '--dlatents=seed0101.npz'][number]
        panel(page, 'generate').locator('.command code').filter(has_text=text).wait_for()
        drawn(page, 'generate')
    shown = [pixels(saved(page, 'generate', 'Download PNG')[1]) for page in pages]
    command = f'x run_generator.py generate-images --network={FACES} --seeds=100 --truncation-psi=0.7'
    np.testing.assert_array_equal(shown[0], made_by(command, tmp_path))
    assert np.any(shown[0] != shown[1])
    for context in contexts:
        context.close()
    assert not pages[0].complaints and not pages[1].complaints


def test_previews_are_drawn_while_a_slider_moves(page):
    """If whole pictures take long, which those of this network do not: here their requests are held up."""
    previews = []

    def hold_up(route):
        data = json.loads(route.request.post_data)
        previews.append(data.get('preview', False))
        if not previews[-1]:
            time.sleep(0.2)
        route.continue_()
    page.route('**/api/picture', hold_up)
    tab = go(page, 'mix')
    drawn(page, 'mix')
    box = tab.get_by_label('Coarse', exact=True).bounding_box()
    page.mouse.move(box['x'] + 8, box['y'] + box['height'] / 2)
    page.mouse.down()
    for step in range(200):  # The slider keeps moving; when it rests, the whole picture is drawn.
        page.mouse.move(box['x'] + 30 + step % 30, box['y'] + box['height'] / 2)
        if tab.locator('img[data-kind=preview]').count():
            break
    assert tab.locator('img[data-kind=preview]').count() and True in previews
    page.mouse.move(box['x'] + 90, box['y'] + box['height'] / 2)
    page.mouse.up()
    drawn(page, 'mix')
    assert not previews[-1]
    assert pixels(saved(page, 'mix', 'Download PNG')[1]).shape == (32, 32, 3)


def test_the_keyboard_reaches_the_tabs(page):
    page.focus('#tab-generate')
    page.keyboard.press('ArrowRight')
    assert page.locator('#tab-mix').get_attribute('aria-selected') == 'true'
    page.keyboard.press('ArrowLeft')
    page.keyboard.press('ArrowLeft')
    assert page.locator('#panel-compare').is_visible() and not page.locator('#panel-generate').is_visible()


def test_an_explorer_with_a_password_and_then_without_an_answer(browser):
    with serving(auth='guest:secret') as address:
        context = browser.new_context(http_credentials=dict(username='guest', password='secret'))
        page = open_page(context, address)
        page.locator('#sheet button:has(img)').nth(15).wait_for()
    panel(page, 'generate').get_by_role('button', name='Next').click()
    assert 'The explorer does not answer' in message(page)
    context.close()
