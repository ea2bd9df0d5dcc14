"""Create docs/explorer.png: a picture of the explorer's page.

    python run_explorer.py --network=tests/data/faces32.pkl
    python docs/screenshot.py docs/explorer.png

Needs Playwright and Chromium: pip install -e '.[dev]'; apt install chromium.
"""

from __future__ import annotations

import argparse
import io
import shutil

from PIL import Image
from playwright.sync_api import sync_playwright


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', help='PNG file to write', metavar='OUT.png')
    parser.add_argument('--address', help='address of the page (default: %(default)s)', default='http://127.0.0.1:7860')
    parser.add_argument('--tab', help='tab to show (default: %(default)s)', default='directions')
    args = parser.parse_args()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which('chromium'), args=['--no-sandbox'])
        page = browser.new_page(viewport=dict(width=1240, height=700))
        page.goto(args.address)
        page.locator('#panel-generate img[data-kind=full]').wait_for()
        page.locator('#psi').fill('1')
        page.click(f'#tab-{args.tab}')
        panel = page.locator(f'#panel-{args.tab}')
        if args.tab == 'directions':
            panel.get_by_label('Start: seed').fill('12')
            for index, value in ((0, '-1'), (2, '1.5'), (4, '-1')):
                panel.locator('#directions-sliders input').nth(index).fill(value)
        page.wait_for_timeout(1500)
        panel.locator('.picture:not(.busy) img[data-kind=full]').wait_for()
        picture = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    picture.convert('RGB').quantize(128, dither=Image.Dither.NONE).save(args.out, optimize=True)


if __name__ == '__main__':
    main()
