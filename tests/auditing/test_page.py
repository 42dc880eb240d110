"""The audit's table and page: readable at every width, one file that loads nothing and sorts."""

import re
import shutil
import subprocess
import threading
from dataclasses import replace
from fractions import Fraction
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from torch import nn

import symconv as sc
from symconv.auditing import Audit, EquivarianceRow, LayerRow, ReceptiveField, Sizes, Total
from symconv.auditing.table import Column, Table, text

LONG = "stages.3.blocks.11.attention.projection.with.a.name.that.goes.on.and.on"
BOX = ReceptiveField((7, 9), (2, 2), (3, 4), holes=True)
WHOLE = ReceptiveField((None, None), (Fraction(1, 2), 1), (0, 0), everything=True)
MADE = Audit(
    "Net<b>",
    "1x3x224x224 float32",
    layers=(
        LayerRow(
            "conv1", "Conv2d", (1, 3, 224, 224), (1, 64, 112, 112), 150_528, 802_816, 147, 146.2,
            117_000_000, 9_408, 9_408, 12_436.2, 118_013_952, 1_013_952, 120_846_286_848, 12_436.2,
            BOX,
        ),
        LayerRow(LONG, "Linear", (1, 512), (1, 1000), 512, 1000, 512, 512.0, 512_000, 513_000,
                 512_000, 1.0, 512_000, 0, 512_000, 1.0, WHOLE),
        LayerRow("fft:fft_fftn", "fft_fftn", note="unknown, at least 12,000 MACs"),
    ),
    total=Total(522_408, 521_408, 117_512_000, 118_525_952, 1_013_952, 121_000_000_000,
                ("fft: unknown, at least 12,000 MACs",)),
    receptive_field=WHOLE,
    equivariance=tuple(
        EquivarianceRow(transform, layer, error, interior, local, verdict)
        for transform, error, interior, verdict in (
            ("shift 1", 0.3, None, "broken"), ("shift 32", 1e-7, 2e-8, "exact"),
            ("shift 0.5", 0.02, 0.01, "approximate"), ("turn 90", 1.0, 1.1, "broken"),
        )
        for layer, local in (("", None), ("conv1", error / 2), (LONG, 0.0))
    ),
    sizes=Sizes((33, 33), "(h + 31) // 32 x (w + 31) // 32", None, True, ("Odd sizes work.",)),
    culprits=("conv1, stride 2: error 0.15 under a shift of 1 px; exact for multiples of 2",),
    period=(32, 32),
    reasons={"sizes": "the example input has a fixed size"},
    versions={"torch": "2.13.0"},
)  # fmt: skip


class Network(nn.Module):
    """Strided, zero-padded, and a function between the layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(2)
        self.second = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.pool(self.norm(self.first(x)).relu())
        x = x + self.second(x)
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def report():
    torch.manual_seed(0)
    return sc.audit(Network(), torch.randn(1, 3, 32, 32))


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    return report.to_html(tmp_path_factory.mktemp("page") / "audit.html").read_text()


# the table


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_every_line_fits_the_width(width, report):
    for audit in (MADE, report):
        assert max(map(len, text(audit, width).splitlines())) <= width


def test_narrow_tables_keep_the_important_columns_and_whole_numbers():
    lines = text(MADE, 60).splitlines()
    heading = next(line for line in lines if line.startswith("layer "))
    assert heading.split()[:1] == ["layer"]
    for column in ("params", "MACs"):
        assert column in heading
    row = next(line for line in lines if line.startswith("conv1 "))
    assert row.split()[-len(heading.split()) + 1 :] == row.split()[1:]
    for cell in ("9.41k", "118M"):
        assert cell in row.split()
    assert any(line.startswith("…") and "goes.on.and.on" in line for line in lines)


def test_wider_tables_show_more():
    def columns(width):
        heading = next(x for x in text(MADE, width).splitlines() if x.startswith("layer "))
        return set(heading.split())

    assert columns(60) < columns(90) < columns(150)
    assert {"kind", "output", "fan-in", "connect.", "uses", "dense", "padding", "sees"} < columns(
        150
    )


def test_columns_leave_in_the_order_of_their_rank():
    table = Table(
        "t", [Column("a", ["1"], left=True), Column("b", ["2"], 2), Column("c", ["3"], 1)]
    )
    assert [c.name for c in table.fitted(80).columns] == ["a", "b", "c"]
    assert [c.name for c in table.fitted(4).columns] == ["a", "c"]
    empty = Table("t", [Column("a", ["1"]), Column("b", ["-"])])
    assert [c.name for c in empty.fitted(80).columns] == ["a"]


def test_culprits_come_first_and_everything_is_said():
    said = re.sub(r"\s+", " ", str(MADE))
    first = said.index("error 0.15 under a shift")
    assert first < said.index("at least 118,525,952 MACs") < said.index("layers ")
    for words in (
        "Unknown: fft: unknown, at least 12,000", "Exact period of circular shifts: 32",
        "Every output sees the whole input", "Smallest input that works: 33x33",
        "(h + 31) // 32", "leaks", "Odd sizes work.", "No sizes: the example input", "broken",
    ):  # fmt: skip
        assert words in said, words


def test_rich_prints_the_same(report):
    from rich.console import Console

    from symconv.auditing.table import show

    for audit in (MADE, report):
        console = Console(width=80, color_system=None)
        with console.capture() as capture:
            show(audit, console)
        rich = [line.strip() for line in capture.get().splitlines() if line.strip()]
        plain = [line.strip() for line in text(audit, 80).splitlines() if line.strip()]
        assert rich == plain


def test_an_audit_of_nothing():
    empty = Audit("Net", "1x3 float32", reasons={"counts": "it failed"})
    assert str(empty).splitlines() == ["Net on 1x3 float32", "No counts: it failed"]


# the page


class Loads(HTMLParser):
    """What a page would fetch, and whether its tags are balanced."""

    VOID = ("meta", "br", "img", "hr", "input", "link", "base")

    def __init__(self, page):
        super().__init__()
        self.found, self.open, self.balanced, self.images, self.inside = [], [], True, 0, ""
        self.feed(page)
        self.balanced &= not self.open

    def handle_starttag(self, tag, attributes):
        self.inside = tag
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("iframe", "object", "embed", "base"):
            self.found.append(tag)
        self._attributes(attributes)

    def handle_startendtag(self, tag, attributes):
        self._attributes(attributes)

    def _attributes(self, attributes):
        for name, value in attributes:
            if name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster"):
                self.images += str(value).startswith("data:image/png;base64,")
                if not str(value).startswith(("#", "data:")):
                    self.found.append(f"{name}={value}")
            elif name == "style" and re.search(r"url\((?!#)", value):
                self.found.append(value)

    def handle_endtag(self, tag):
        self.balanced &= bool(self.open) and self.open.pop() == tag
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "style":
            self.found += re.findall(r"@import[^;]*|url\((?!#)[^)]*\)", data)
        if self.inside == "script":
            self.found += re.findall(r"fetch|XMLHttp|import|//\S+|Worker|sendBeacon", data)


def test_the_page_is_one_file_that_loads_nothing(page):
    loads = Loads(page)
    assert loads.found == []
    assert loads.balanced
    assert loads.images > 5  # pictures within the drawings
    assert page.count("<svg") >= 4


@pytest.mark.parametrize(
    "loading",
    [
        '<img src="https://a.b/c.png">', '<img src="//a.b/c.png">', '<link href="x.css">',
        "<style>@import 'x.css';</style>", "<style>p { background: url(http://a.b/c) }</style>",
        '<script src="x.js"></script>', "<script>fetch('//a.b')</script>",
        '<p style="background: url(x.png)"></p>', '<iframe srcdoc=""></iframe>',
        '<svg><image xlink:href="http://a.b/c.png"/></svg>',
    ],
)  # fmt: skip
def test_a_page_that_loads_something_would_be_seen(loading, page):
    assert Loads(page.replace("</main>", f"{loading}</main>")).found


def test_tags_left_open_would_be_seen():
    assert not Loads("<main><p>a</main>").balanced


def test_the_page_says_what_the_report_says(page, report):
    for row in report.layers:
        assert f">{row.name or row.kind}</td>" in page
    assert f"{report.total.macs:,} MACs" in page
    for culprit in report.culprits:
        assert HTML_ESCAPE(culprit) in page
    for heading in ("Does the whole model commute", "What does one output see", "border"):
        assert heading in page


def HTML_ESCAPE(text):  # noqa: N802
    from markupsafe import escape

    return str(escape(text))


def test_names_are_escaped(tmp_path):
    page = MADE.to_html(tmp_path / "audit.html").read_text()
    assert "Net<b>" not in page
    assert "Net&lt;b&gt;" in page
    assert Loads(page).balanced


def test_the_page_is_the_same_each_time_and_leaves_the_model_as_found(report, page, tmp_path):
    model = report.call.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert report.to_html(tmp_path / "again.html").read_text() == page
    assert torch.equal(torch.rand(2), expected)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_page_without_pictures_or_parts(tmp_path):
    bare = replace(MADE, equivariance=None, layers=(), sizes=None, call=None)
    page = bare.to_html(tmp_path / "a.html").read_text()
    assert "<svg" not in page
    assert "No sizes: the example input has a fixed size" in page
    assert Loads(page).balanced


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="missing"):
        MADE.to_html(tmp_path / "missing" / "a.html")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        MADE.to_html(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


# in a browser

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PROBE = """<script>addEventListener("load", () => setTimeout(() => {
  document.documentElement.dataset.loaded =
    performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:"));
  document.documentElement.dataset.wide = document.documentElement.scrollWidth > innerWidth;
  const heads = [...document.querySelectorAll("#layers th")];
  const at = heads.findIndex(h => h.textContent === "MACs");
  const column = () => [...document.querySelectorAll("#layers tbody tr")]
    .map(r => r.cells[at].textContent.replaceAll(",", "")).join(" ");
  const click = () => (heads[at].firstChild.click(), column());
  document.documentElement.dataset.order = [column(), click(), click()].join("|");
}, 200))</script>"""


class Recorder(SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, *arguments):
        pass


def browsed(folder, page, width=1200):
    """What a real browser asked for and found, after it has drawn the page."""
    (folder / "page.html").write_text(page.replace("</body>", PROBE + "</body>"))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Recorder, directory=folder)) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        command = [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900",
            "--virtual-time-budget=3000", "--dump-dom",
            f"http://127.0.0.1:{server.server_port}/page.html",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        server.shutdown()
        thread.join()
    told = dict(re.findall(r'data-(loaded|wide|order)="([^"]*)"', done.stdout[:5000]))
    return told, [path for path in server.asked if path != "/page.html"]


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
def test_a_browser_loads_nothing_sorts_and_needs_no_sideways_scrolling(page, tmp_path):
    for width in (1200, 500):
        told, asked = browsed(tmp_path, page, width)
        assert (told["loaded"], asked) == ("", [])
        assert told["wide"] == "false"
    called, down, up = (part.split(" ") for part in told["order"].split("|"))
    numbers = [-1 if n == "-" else int(n) for n in down]
    assert numbers == sorted(numbers, reverse=True)
    assert [-1 if n == "-" else int(n) for n in up] == sorted(numbers)
    assert sorted(called) == sorted(down)


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
def test_a_browser_that_loads_something_would_be_seen(tmp_path):
    page = '<body><p style="width: 4000px">x</p><img src="gone.png"></body>'
    told, asked = browsed(tmp_path, page)
    assert "gone.png" in told["loaded"]
    assert "/gone.png" in asked
    assert told["wide"] == "true"
