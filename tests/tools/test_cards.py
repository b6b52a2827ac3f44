"""Cards and tables hold the figures of the result files, and nothing in them was typed by hand."""

import copy
import csv
import io
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from helpers.paths import ROOT
from huggingface_hub import ModelCard

from tools.cards import __main__ as tool
from tools.cards import texts
from tools.cards.results import publish, read_results
from unisync_loss import UniSyncConfig, UniSyncExpert, list_pretrained

VISUALS = {"rgb": 3, "parsing": 6, "landmarks": 136, "3dmm": 40}
AUDIOS = {
    "mel": {},
    "hubert": {"audio_features": 192, "audio_model": "hubert-small"},
    "whisper": {"audio_features": 512, "audio_model": "whisper-base", "audio_layer": 4},
}
CONFIGS = {
    f"{audio}-{visual}": UniSyncConfig(
        audio=audio,
        visual=visual,
        visual_features=size,
        embedding=8,
        threshold=0.4 + 0.0123 * len(visual),
        temperature=0.1,
        **fields,
    )
    for audio, fields in AUDIOS.items()
    for visual, size in VISUALS.items()
}
AVERAGE = "mel-rgb+mel-3dmm"
SIZES = {"test": (217, 47), "test_wild": (158, 49), "val": (222, 41)}


def made_up(data, draw):
    """Results of `benchmarks/pairs.py` with drawn figures, every one of them different."""

    def figure():
        return round(float(draw.uniform(0.5, 0.99)), 4)

    def group(names):
        return {name: {"accuracy": figure(), "auc": figure(), "n": int(draw.integers(100, 9000))} for name in names}

    def report(name):
        pairs = {key: figure() for key in ("accuracy_at_0.5", "accuracy", "auc")}
        pairs |= {key: [figure(), figure()] for key in ("ci95", "ci95_accuracy_at_0.5", "ci95_auc")}
        threshold = round(CONFIGS[name].threshold, 4) if name in CONFIGS else 0.5
        cost = {"parameters": int(draw.integers(2e6, 5e6)), "encoder_parameters": 0 if "mel" in name else 13_512_704}
        cost |= {"multiply_adds_alone": 36.4, "multiply_adds_in_a_second": 24.2, "milliseconds": 0.5912345}
        cost |= {"encoder_multiply_adds_a_second": 117.6}
        return {
            "data": data,
            "model": name,
            "clips": SIZES[data][0],
            "speakers": SIZES[data][1],
            "seed": 0,
            "left_out": [],
            "pairs": {**pairs, "threshold": threshold, "n": 27980},
            **group(["voiced", "unvoiced", "detection"]),
            "calibration": {
                **{key: figure() for key in ("temperature", "midpoint", "error_of_score", "error")},
                **{key: [figure(), figure()] for key in ("ci95_error", "predicted", "observed")},
            },
            "retrieval": {k: {"accuracy": figure(), "ci95": [figure(), figure()], "n": 9} for k in ("5", "9", "15")},
            "offset_within_1": figure(),
            "by_corpus": group(["lrs3", "wth"]),
            "by_language": group(["ar", "en"]),
            **({"cost": cost} if name in CONFIGS and data != "val" else {}),
        }

    return {name: report(name) for name in (*CONFIGS, AVERAGE)}


@pytest.fixture(scope="module")
def raw():
    """Result files of every benchmark."""
    draw = np.random.default_rng(0)
    condition = {"accuracy": 0.81234, "ci95": [0.7, 0.9], "auc": 0.91234, "ci95_auc": [0.8, 0.95]}
    measure = {"mean": 0.99123, "ci95": [0.98, 1.0]}
    shift = {key: measure for key in ("within_1", "exact", "mean_absolute_error_ms", "interval_holds_the_shift")}
    shifts = {"mel-rgb": {**shift, "by_clip": {"a": [1] * 1000}}, "hubert-3dmm": shift}
    return {
        **{data: made_up(data, draw) for data in SIZES},
        "robustness": {"seed": 0, "clips": 28, "experts": {"mel-rgb": {"unchanged": condition, "96 x 96": condition}}},
        "shifts": {"clips": ["a", "b"], "seed": 0, "experts": shifts},
    }


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository with the documents and the folders of the cards, and twelve released experts."""
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/scores.md"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    for name in CONFIGS:
        (tmp_path / "unisync_loss/weights" / name).mkdir(parents=True)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "list_pretrained", lambda: {n: SimpleNamespace(config=c) for n, c in CONFIGS.items()})
    monkeypatch.setitem(texts.AUDIO_TOWERS, "whisper", "trained as this test describes.")
    return tmp_path


@pytest.fixture
def run(root, raw, monkeypatch):
    """Run the command on result files, all of them by default; returns what it wrote."""

    def command(*names, results=raw):
        options = []
        for name in names or raw:
            path = root / f"out_{name}.json"
            path.write_text(json.dumps(results[name]))
            options += [f"--{name.removeprefix('test_')}", str(path)]
        monkeypatch.setattr(sys, "argv", ["cards", *options])
        tool.main()
        return files(root)

    return command


def files(root):
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8", errors="replace")
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith("out_")
    }


def card_of(written, name):
    return written[f"unisync_loss/weights/{name}/README.md"]


def row_of(text, start):
    """Cells of the one table row that starts so."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_what_is_written(run):
    written = run()
    results = {f"benchmarks/results/{name}.json" for name in (*SIZES, "robustness", "shifts")}
    cards = {f"unisync_loss/weights/{name}/README.md" for name in CONFIGS}
    documents = {"README.md", "docs/scores.md", "docs/pairs.csv", "docs/calibration.png"}
    assert written.keys() == documents | results | cards


def test_a_card_holds_the_figures(run, raw):
    card = card_of(run(), "whisper-landmarks")
    reports = [raw[data]["whisper-landmarks"] for data in ("test", "test_wild", "val")]

    def cells(value, interval):
        return [f"{value(r):.3f} [{interval(r)[0]:.3f}, {interval(r)[1]:.3f}]" for r in reports]

    threshold = f"{CONFIGS['whisper-landmarks'].threshold:.3f}"
    pairs = {f"at {threshold}": ("accuracy", "ci95"), "at 0.5": ("accuracy_at_0.5", "ci95_accuracy_at_0.5")}
    for title, (key, interval) in pairs.items():
        expected = cells(lambda r, k=key: r["pairs"][k], lambda r, i=interval: r["pairs"][i])
        assert row_of(card, f"pairs, accuracy {title}")[1:] == expected
    assert row_of(card, "pairs, AUC")[1:] == cells(lambda r: r["pairs"]["auc"], lambda r: r["pairs"]["ci95_auc"])
    assert row_of(card, "`test_wild`")[1:] == [
        f"{reports[1]['calibration']['error_of_score']:.3f}",
        cells(lambda r: r["calibration"]["error"], lambda r: r["calibration"]["ci95_error"])[1],
    ]
    for k in ("5", "9", "15"):
        expected = cells(lambda r, k=k: r["retrieval"][k]["accuracy"], lambda r, k=k: r["retrieval"][k]["ci95"])
        assert row_of(card, f"retrieval@{k}, ±1 among 31")[1:] == expected
    shares = [f"{report['offset_within_1']:.3f}" for report in reports]
    assert row_of(card, "whole clips with the correct offset ±1")[1:] == shares
    for title, group in (("voiced windows", "voiced"), ("windows without speech", "unvoiced")):
        row = reports[0][group]
        assert row_of(card, title)[1:] == [f"{row['accuracy']:.3f}", f"{row['auc']:.3f}", str(row["n"])]
    assert row_of(card, "corpus wth")[3] == str(reports[0]["by_corpus"]["wth"]["n"])
    assert row_of(card, "language ar")[3] == str(reports[0]["by_language"]["ar"]["n"])
    assert "| `test`: 217 clips, 47 people | `test_wild`: 158 clips, 49 people | `val`: 222 clips, 41 people |" in card


def test_front_matter_as_the_hub_reads_it(run, raw):
    written = run()
    for name in CONFIGS:
        content = card_of(written, name)
        data = ModelCard(content).data
        assert (data.library_name, data.license, data.model_name) == ("unisync_loss", "other", name)
        found = {(row.dataset_type, row.metric_name): row.metric_value for row in data.eval_results}
        assert len(found) == 2 * 5
        for kind in ("test", "test_wild"):
            report = raw[kind][name]
            place = f"unisync-loss-{kind.replace('_', '-')}"
            assert found[place, "pairs, AUC"] == round(report["pairs"]["auc"], 4)
            threshold = report["pairs"]["threshold"]
            assert found[place, f"pairs, accuracy at {threshold}"] == round(report["pairs"]["accuracy"], 4)
            assert found[place, "retrieval@9, ±1 frame among 31"] == round(report["retrieval"]["9"]["accuracy"], 4)
        assert yaml.safe_load(content.split("---\n")[1])["pipeline_tag"] == "video-classification"


@pytest.mark.parametrize("name", CONFIGS)
def test_an_expert_takes_the_shapes_of_its_card(run, name):
    contract = card_of(run(), name).split("## Input contract")[1].split("## Scores")[0]
    sizes = {"B": 2, "T": 6, "H": 96, "W": 96, "L": 20}
    shapes = [
        tuple(int(eval(size.replace("·", "*"), sizes)) for size in shape.split(","))
        for shape in re.findall(r"\((B, [^()]*)\)", contract)
    ]
    if name.endswith("parsing"):
        assert shapes.pop(1) == (2, 6, 96, 96)  # labels
    video, waveform, features = shapes
    assert waveform == (2, 6 * 640)
    expert = UniSyncExpert(CONFIGS[name]).eval()
    with torch.no_grad():
        visual = expert.encode_visual(torch.softmax(torch.randn(video), 2) if len(video) == 5 else torch.randn(video))
        audio = expert.encode_audio(torch.randn(features), 6)
    assert visual.shape == audio.shape == (2, 2, 8)
    assert f"threshold {CONFIGS[name].threshold:.3f}" in contract
    assert ("mean of the T frames" in contract) == (not name.endswith("rgb"))


def test_robustness_and_shifts_are_on_the_cards_that_were_measured(run):
    written = run()
    assert row_of(card_of(written, "mel-rgb"), "96 x 96")[1:] == ["0.812 [0.700, 0.900]", "0.912 [0.800, 0.950]"]
    assert "of 2 clips shifted by" in card_of(written, "mel-rgb")
    assert "0.991 [0.980, 1.000]" in card_of(written, "hubert-3dmm")
    for name in CONFIGS.keys() - {"mel-rgb"}:
        assert "96 x 96" not in card_of(written, name)
        assert ("shifted by" in card_of(written, name)) == (name == "hubert-3dmm")


def test_readme(run, raw):
    before = (ROOT / "README.md").read_text(encoding="utf-8")
    text = run()["README.md"]
    head, tail = before.split(tool.BEGIN)[0], before.split(tool.END)[1]
    assert text.startswith(head)
    assert text.endswith(tail)
    test, wild = raw["test"]["whisper-rgb"], raw["test_wild"]["whisper-rgb"]
    assert row_of(text, "[`whisper-rgb`](unisync_loss/weights/whisper-rgb/README.md)")[1:] == [
        "`whisper-base`, 13.5 M",
        f"{test['cost']['parameters'] / 1e6:.2f} M",
        *(f"{row['pairs'][key]:.3f}" for row in (test, wild) for key in ("accuracy", "auc")),
        f"{test['retrieval']['5']['accuracy']:.3f}",
    ]
    assert row_of(text, "[`mel-rgb`](unisync_loss/weights/mel-rgb/README.md)")[1] == "none"
    assert "`test`: 217 clips of 47 people; `test_wild`: 158 clips of 49 people who film themselves" in text
    assert AVERAGE not in text
    order = re.findall(r"^\| \[`([\w-]+)`\]", text, re.MULTILINE)
    assert order == sorted(CONFIGS, key=lambda name: -raw["test"][name]["pairs"]["auc"])


def test_scores(run, raw):
    text = run()["docs/scores.md"]
    row, wild = raw["test"][AVERAGE]["pairs"], raw["test_wild"][AVERAGE]["pairs"]
    cells = [line for line in text.splitlines() if line.startswith(f"| `{AVERAGE}` |")]
    assert len(cells) == 2, "scores and calibration; an average has no cost"
    assert f"{row['accuracy']:.3f} [{row['ci95'][0]:.3f}, {row['ci95'][1]:.3f}]" in cells[0]
    assert f"{wild['auc']:.3f} [{wild['ci95_auc'][0]:.3f}, {wild['ci95_auc'][1]:.3f}]" in cells[0]
    costs = [line for line in text.splitlines() if line.startswith("| `hubert-3dmm` |")][2]
    assert costs.endswith("| 13.51 M | 118 M | 36 M | 24 M | 0.59 |")


def test_csv(run, raw):
    rows = list(csv.DictReader(io.StringIO(run()["docs/pairs.csv"])))
    assert len(rows) == 3 * 13
    for row in rows:
        report = raw[row["data"]][row["model"]]
        assert (int(row["clips"]), int(row["speakers"])) == SIZES[row["data"]]
        assert float(row["auc"]) == round(report["pairs"]["auc"], 4)
        assert float(row["auc_high"]) == round(report["pairs"]["ci95_auc"][1], 4)
        assert float(row["retrieval_15_low"]) == round(report["retrieval"]["15"]["ci95"][0], 4)
        assert row["parameters"] == str(raw["test"][row["model"]].get("cost", {}).get("parameters", ""))


def test_published_results_are_small_and_rounded(run):
    written = run()
    size = sum(len(text.encode()) for name, text in written.items() if name.startswith("benchmarks/results/"))
    assert size < 120e3
    published = json.loads(written["benchmarks/results/shifts.json"])
    assert published["clips"] == 2
    assert "by_clip" not in published["experts"]["mel-rgb"]
    report = json.loads(written["benchmarks/results/test.json"])["mel-rgb"]
    assert "left_out" not in report
    assert report["cost"]["milliseconds"] == 0.5912


def test_the_command_without_options_writes_the_same_again(run, root, monkeypatch):
    written = run()
    card = root / "unisync_loss/weights/mel-rgb/README.md"
    card.write_text(card.read_text().replace("pairs, AUC", "AUC of pairs"))
    monkeypatch.setattr(sys, "argv", ["cards"])
    tool.main()
    assert files(root) == written


def test_one_file_can_be_replaced(run, raw):
    run()
    changed = copy.deepcopy(raw)
    changed["val"]["mel-rgb"]["pairs"]["auc"] = 0.12345
    assert "0.123 [" in row_of(card_of(run("val", results=changed), "mel-rgb"), "pairs, AUC")[3]


def test_a_hand_edit_is_found(run, root):
    run()
    assert edited(root, CONFIGS) == []
    document = root / "docs" / "scores.md"
    document.write_text(document.read_text().replace("| `mel-rgb` | 0.", "| `mel-rgb` | 1."))
    assert edited(root, CONFIGS) == [document]


def edited(root, configs):
    """Files that differ from what the tool writes."""
    rendered = tool.render(root, configs)
    return [path for path, text in rendered.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def test_cards_and_tables_of_this_repository_are_those_of_the_results():
    if not (ROOT / tool.RESULTS).is_dir():
        pytest.skip(f"no results are published yet: python -m tools.cards writes {tool.RESULTS}")
    assert edited(ROOT, {name: info.config for name, info in list_pretrained().items()}) == []


def change(results, path, value):
    """Results with another value at a path; None removes it."""
    changed = copy.deepcopy(results)
    *parents, last = path
    place = changed
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["test", "mel-rgb"], None, r"test\.json: expected results of every released expert, mel-rgb is missing"),
        (["val", "mel-rgb", "data"], "test", r"val\.json: expected results on 'val', got 'test' for mel-rgb"),
        (["val", "mel-rgb", "clips"], 9, r"val\.json: expected all models on the same clips, got"),
        (["test", "mel-rgb", "pairs", "threshold"], 0.5, r"expected mel-rgb at its threshold 0\.\d+, got 0\.5"),
        (["test", "mel-rgb", "cost"], None, r"test\.json: expected the cost of every released expert, not of mel-rgb"),
        (["test", "mel-rgb", "voiced"], None, "expected results for test, got another JSON: KeyError"),
        (["shifts", "experts"], None, "expected results for shifts, got another JSON"),
        (["val"], [], "expected a JSON object of results, got list"),
    ],
)
def test_results_of_something_else(run, raw, path, value, message):
    with pytest.raises(ValueError, match=message):
        run(results=change(raw, path, value))


def test_no_results(root):
    with pytest.raises(ValueError, match=r"test\.json: expected a JSON file of results"):
        read_results(root / tool.RESULTS, CONFIGS)
    with pytest.raises(ValueError, match="expected a JSON file of results"):
        publish(root / "README.md", "val", root)


@pytest.mark.parametrize("text", ["", f"{tool.END}\n{tool.BEGIN}\n", 2 * f"{tool.BEGIN}\n{tool.END}\n"])
def test_markers(root, text):
    (root / "README.md").write_text(text)
    with pytest.raises(ValueError, match=r"README\.md: expected one line"):
        tool.between_markers(root / "README.md", "table")


def test_a_tower_without_a_recipe(run, monkeypatch):
    monkeypatch.delitem(texts.AUDIO_TOWERS, "whisper")
    with pytest.raises(ValueError, match="expected how the audio tower of whisper was trained"):
        run()


def test_links_and_lines(run, root):
    written = run()
    for name in CONFIGS:
        folder = root / "unisync_loss/weights" / name
        for target in re.findall(r"\]\(([^)#]+)", card_of(written, name)):
            path = (folder / target).resolve()
            assert path.is_file() or (ROOT / path.relative_to(root.resolve())).is_file(), target
        body = card_of(written, name).split("---\n", 2)[2]
        assert [line for line in body.splitlines() if len(line) > 140 and not line.startswith("|")] == []
        assert "{" not in body
