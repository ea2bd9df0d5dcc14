"""The documentation: links are valid, pages can be reached, every flag is documented, and the front page is short."""

import importlib
import re

import pytest

from tests import ROOT

PAGES = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), *ROOT.glob('demo/*.md'), *ROOT.glob('tests/**/*.md')])


def anchors(path):
    """Anchors of a page's headings, in GitHub's form."""
    headings = re.findall(r'^#+ (.*)$', path.read_text(encoding='utf-8'), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r'```.*?```', '', page.read_text(encoding='utf-8'), flags=re.DOTALL)
    for link in re.findall(r'\]\(([^)\s]+)\)', text):
        if re.match(r'\w+:', link):
            continue
        path, _, anchor = link.partition('#')
        target = page.parent / path if path else page
        assert target.exists(), f'{page.name}: {link}'
        assert not anchor or anchor in anchors(target), f'{page.name}: {link}'


def test_every_page_can_be_found():
    """Every page and picture can be reached from README.md, and from the list of pages."""
    for entrance in (ROOT / 'README.md', ROOT / 'docs' / 'index.md'):
        reached, new = set(), {entrance}
        while new:
            page = new.pop()
            reached.add(page)
            links = re.findall(r'\]\(([^)#\s]+)', page.read_text(encoding='utf-8')) if page.suffix == '.md' else []
            new |= {path for path in ((page.parent / link).resolve() for link in links) if path.is_file()} - reached
        docs = {path for path in ROOT.glob('docs/**/*') if path.suffix in ('.md', '.png', '.svg', '.gif')}
        assert docs - reached <= {ROOT / 'docs' / 'index.md'}


def test_the_front_page_is_short_and_begins_with_a_picture():
    lines = (ROOT / 'README.md').read_text(encoding='utf-8').splitlines()
    assert len(lines) <= 160
    assert lines[0].startswith('# ') and lines[2].startswith('![')


@pytest.mark.parametrize('command, page', [
    ('run_training', 'training'), ('run_generator', 'pictures latents figures export'), ('run_projector', 'projector'),
    ('run_metrics', 'metrics'), ('run_explorer', 'explorer'), ('dataset_tool', 'datasets')])
def test_every_flag_is_documented(command, page, monkeypatch, capsys):
    """The command's pages mention all flags that --help of the command and of its subcommands lists."""
    monkeypatch.setenv('COLUMNS', '1000')  # Wide enough for one line per flag.

    def help_lines(*args):
        with pytest.raises(SystemExit):
            importlib.import_module(command).main([*args, '--help'])
        return capsys.readouterr().out.splitlines()

    lines = help_lines()
    has_subcommands = 'COMMAND' in lines[0]
    subcommands = [line.split()[0] for line in lines if has_subcommands and re.match(r'    [a-z][\w-]*  ', line)]
    lines += [line for subcommand in subcommands for line in help_lines(subcommand)]
    flags = {flag for line in lines if re.match('  -', line)
             for flag in re.findall(r'--[a-z][a-z-]*(?!\w)', line.strip().split('  ')[0])}
    text = ''.join((ROOT / 'docs' / f'{name}.md').read_text(encoding='utf-8') for name in page.split())
    assert len(flags) > 5
    assert not {flag for flag in flags - {'--help'} if not re.search(rf'{flag}(?![\w-])', text)}
