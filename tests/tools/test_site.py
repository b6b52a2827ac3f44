"""The pages of the documentation site: all documents, working links, every public name."""

import importlib

import pytest
import yaml
from helpers.paths import ROOT

from tools import site


def leaves(nav):
    """Files that a navigation names."""
    for entry in nav:
        for value in entry.values():
            yield from leaves(value) if isinstance(value, list) else [value]


def test_every_document_is_in_the_navigation(tmp_path):
    pages = site.lay_out(tmp_path / "pages")
    nav = list(leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert len(nav) == len(set(nav))
    assert set(nav) == {page.as_posix() for page in pages} | {"api.md"}
    assert all((tmp_path / "pages" / name).is_file() for name in nav)


def test_pictures_and_linked_files_come_along_and_links_to_folders_do_not(tmp_path):
    site.lay_out(tmp_path)
    assert (tmp_path / "docs/calibration.png").read_bytes() == (ROOT / "docs/calibration.png").read_bytes()
    assert (tmp_path / "examples/prepare_with_ray.py").is_file()
    assert "](audio_students)" in (ROOT / "research/README.md").read_text()
    assert "](audio_students)" not in (tmp_path / "research/README.md").read_text()


def test_a_dead_link_is_named(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("[here](nowhere.md)")
    monkeypatch.setattr(site, "ROOT", tmp_path)
    monkeypatch.setattr(site, "SOURCES", ("README.md",))
    with pytest.raises(ValueError, match=r"README\.md: expected nowhere\.md to exist"):
        site.lay_out(tmp_path / "out")


@pytest.mark.parametrize("module", site.PUBLIC)
def test_the_api_page_has_every_public_name(module):
    names = set(importlib.import_module(module).__all__) - {"__version__"}
    assert set(site.public_names(module)) == names
    assert all(f"::: {module}.{name}\n" in site.api_page() for name in names)
