"""The part of a page that a reader steps through, in a headless Chromium: its numbers are those of fnconv."""

from __future__ import annotations

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnconv
from fnconv import show
from fnconv.base.geometry import Axis, ceil_overshoot, flat_table
from fnconv.show.interactive import frame

AXES = [
    [Axis(5, 3)],
    [Axis(5, 3, 2, 1, 3, 3), Axis(4, 2, 3, 1, 3, 4)],
    [Axis(4, 3, 1, 1, 2, 0), Axis(5, 2, 2, 2, -1, 1)],
    [Axis(6, 2, 1, 1, -1, -2)],
    [Axis(5, 2, 2, 1, 0, 0, ceil_overshoot(Axis(5, 2, 2))), Axis(7, 2, 1, 3, 1, 0)],
    [Axis(3, 2, 1, 1, 1, 1), Axis(2, 1), Axis(4, 3, 2, 1, 1, 0)],
]


@pytest.mark.parametrize("axes", AXES)
def test_windows_on_the_drawn_frame_cover_the_cells_of_geometry(axes):
    over, inside = (flat_table(of) for of in frame(axes))
    np.testing.assert_array_equal(inside[over, 0], flat_table(axes))


# ---- a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra: browser)")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium with its chromedriver is installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,1000"):
        options.add_argument(argument)
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as chrome:
        yield chrome


class Reader:
    """What a reader of a page does and sees."""

    def __init__(self, browser, folder, page):
        self.browser, file = browser, folder / "page.html"
        file.write_text(page.to_html(), encoding="utf-8")
        browser.get(file.as_uri())

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def values(self):
        """{tensor: its entries, flat}."""
        found = {}
        for name, n, value, text in self.run(
            "return [...document.querySelectorAll('td[data-tensor]')].map(t => "
            "[t.dataset.tensor, +t.dataset.n, +t.dataset.value, t.textContent])"
        ):
            found.setdefault(name, {})[n] = value
            assert number(text) == (value if value % 1 == 0 else float(f"{value:.4g}"))
        return {name: np.array([entries[n] for n in range(len(entries))]) for name, entries in found.items()}

    def cell(self, name, n):
        return self.browser.find_element("css selector", f'td[data-tensor="{name}"][data-n="{n}"]')

    def focus(self, name, n):
        self.run("arguments[0].focus()", self.cell(name, n))

    def hover(self, name, n):
        from selenium.webdriver import ActionChains

        self.run("arguments[0].scrollIntoView({block: 'start'})", self.cell(name, n))
        ActionChains(self.browser).move_to_element(self.cell(name, n)).perform()

    def press(self, *keys):
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def focused(self):
        return self.run("const d = document.activeElement.dataset; return [d.tensor, +d.n]")

    def sum(self):
        """The result that is explained and its terms, as numbers."""
        result, *terms = self.run("return [...document.querySelectorAll('.sum .chip > :last-child')].map(s => "
                                  "s.textContent)")  # fmt: skip
        return number(result), [np.prod([number(f) for f in term.split("·")]) for term in terms]

    def marked(self, *names):
        """(tensor, position, ×factor) of the cells that are factors of the terms."""
        found = self.run("return [...document.querySelectorAll('td.with')].map(t => "
                         "[t.dataset.tensor, +t.dataset.n, t.dataset.by ?? ''])")  # fmt: skip
        return {(name, n, by.replace("−", "-")) for name, n, by in found if name in names}

    def complaints(self):
        return [entry["message"] for entry in self.browser.get_log("browser")]


def number(text):
    above, _, below = text.strip(" ()").replace("−", "-").replace("∞", "inf").partition("/")
    return float(above) / float(below or 1)


@pytest.fixture
def read(browser, tmp_path):
    readers = []

    def reader(page):
        readers.append(Reader(browser, tmp_path, page))
        return readers[-1]

    yield reader
    for of in readers:
        assert of.complaints() == []
        assert of.run("return performance.getEntriesByType('resource').length") == 0


# ---- what fnconv computes -------------------------------------------------------------------------------------------


def flat(array, channels):
    """A tensor, its last axes first, as the page counts."""
    array = np.asarray(array)
    for axis in range(channels):
        array = np.moveaxis(array, -1, axis)
    return array.reshape(-1)


def of_conv(size, window, channels=1, out=1, **options):
    """The page's function, its operands by name with their shapes, and the axes of channels of each."""
    per_group = channels // options.get("groups", 1)
    shapes = {"I": ((*size, channels), 1), "W": ((*window, per_group, out), 2), "b": ((out,), 0)}
    page = show.conv(size, window, channels=channels, out_channels=out, **options)
    return page, lambda x, w, b: fnconv.conv(x, w, b, **options), shapes, 1


def of_pool(size, window, channels=1, kind="max", **options):
    pool = getattr(fnconv, f"{kind}_pool")
    page = show.pool(size, window, kind=kind, channels=channels, **options)
    return page, lambda x: pool(x, window, **options), {"I": ((*size, channels), 1)}, 1


def of_dense(inputs, outputs):
    shapes = {"I": ((inputs,), 0), "W": ((inputs, outputs), 0), "b": ((outputs,), 0)}
    return show.dense(inputs, outputs), fnconv.dense, shapes, 0


def computed(values, function, shapes, channels):
    """The values of all tensors, from the operands among them, by fnconv."""
    operands = [unflat(values[name], shape, axes) for name, (shape, axes) in shapes.items()]
    y, pullback = jax.vjp(function, *operands)
    gradients = pullback(unflat(values["δ"], y.shape, channels))
    found = {f"d{name}": flat(g, axes) for g, (name, (_, axes)) in zip(gradients, shapes.items(), strict=True)}
    return {**{name: values[name] for name in (*shapes, "δ")}, "O": flat(y, channels), **found}


def unflat(values, shape, channels):
    """The inverse of `flat`."""
    n = len(shape) - channels
    array = np.reshape(values, (*shape[n:][::-1], *shape[:n]))
    for axis in reversed(range(channels)):
        array = np.moveaxis(array, axis, -1)
    return jnp.asarray(array, jnp.float32)


def assert_values(reader, function, shapes, channels, exact=True):
    shown = reader.values()
    expected = computed(shown, function, shapes, channels)
    assert shown.keys() == expected.keys()
    for name, array in expected.items():
        # float32 rounds each of fewer than 2**5 steps by 2**-24
        bound = np.zeros(()) if exact else 2**-19 * (np.abs(array) + 1)
        assert (np.abs(shown[name] - array) <= bound).all(), name
    return shown


LAYERS = {
    "plain": lambda: of_conv((5, 5), (3, 3)),
    "same": lambda: of_conv((5, 5), (3, 3), strides=2, padding="INPUT_SIZE"),
    "cropped": lambda: of_conv((4, 5), (3, 2), strides=(1, 2), padding=[(2, 0), (-1, 1)], dilation=(1, 2)),
    "groups": lambda: of_conv((3, 4), (2, 2), 4, 6, groups=2, padding="SAME"),
    "one axis": lambda: of_conv((9,), (3,), 2, 3, dilation=2, padding=2),
    "three axes": lambda: of_conv((3, 2, 4), (2, 1, 3), 2, strides=(1, 1, 2), padding=1),
    "wide": lambda: of_conv((11, 12), (2, 2), strides=2),
    "max": lambda: of_pool((5, 5), (3, 3), 2, strides=2),
    "max, columns first": lambda: of_pool((5, 5), (3, 3), strides=2, ties="column_major", padding=1),
    "max, ceil": lambda: of_pool((6, 5), (2, 3), strides=3, ceil_mode=True),
    "average": lambda: of_pool((4, 4), (2, 2), kind="avg", strides=1, padding="SAME"),
    "average inside": lambda: of_pool((5, 4), (2, 2), kind="avg", padding=1, count_include_pad=False),
    "norm": lambda: of_pool((4, 4), (2, 2), kind="lp", p=3),
    "dense": lambda: of_dense(4, 3),
}
ROUNDED = {"average inside", "norm"}


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", LAYERS)
def test_every_value_is_fnconvs_and_the_sum_of_its_terms(read, name):
    page, *layer = LAYERS[name]()
    reader, exact = read(page), name not in ROUNDED
    shown = assert_values(reader, *layer, exact=exact)
    for tensor in sorted(shown.keys() - {"I", "W", "b", "δ"}):
        for n in {0, len(shown[tensor]) // 2, len(shown[tensor]) - 1}:
            reader.focus(tensor, n)
            result, terms = reader.sum()
            assert result == pytest.approx(shown[tensor][n], rel=0 if exact else 5e-4, abs=0)  # four digits
            if tensor == "O" and name.startswith("max"):
                assert max(terms) == result
            elif tensor == "O" and name == "norm":
                assert reader.run("return document.querySelectorAll('.sum sup').length") == 2 * len(terms) + 1
            else:
                off = 0 if exact else 5e-4 * (sum(map(abs, terms)) + abs(result))
                assert abs(sum(terms) - result) <= off


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", ["plain", "same", "cropped", "groups", "max", "average inside", "dense"])
def test_results_follow_a_changed_number(read, name):
    page, *layer = LAYERS[name]()
    reader = read(page)
    before = reader.values()
    for operand, text in (("I", "23"), ("W", "-7"), ("δ", "11")):
        if operand not in before:
            continue
        in_use = np.flatnonzero(before.get(f"d{operand}", before["δ"]))
        n = int(in_use[len(in_use) // 2])
        reader.focus(operand, n)
        reader.press(*text, "\ue007")
        assert reader.focused() == [operand, n]
        assert reader.values()[operand][n] == float(text)
        after = assert_values(reader, *layer, exact=name not in ROUNDED)
        changed = {of for of in after if (after[of] != before[of]).any()}
        result = {"I": {"O"}, "W": {"O", "dI"}, "δ": {"dI"}}[operand]
        assert changed >= {operand, *result}
    reader.browser.find_element("xpath", "//button[.='Reset']").click()
    assert {of: list(a) for of, a in reader.values().items()} == {of: list(a) for of, a in before.items()}


def test_hovered_cells_show_the_pairs_of_geometry(read):
    """Forward: the window of an output.  Backward: (o, k) of an input cell, (o, i) of a weight."""
    reader = read(LAYERS["same"]()[0])
    table, v = flat_table([Axis(5, 3, 2, 1, 3, 3)] * 2), reader.values()
    texts = {name: [f"×{value:g}" for value in array] for name, array in v.items()}
    for tensor in ("O", "δ"):
        reader.hover(tensor, 6)
        assert reader.marked("I") == {("I", i, texts["W"][k]) for k, i in enumerate(table[6]) if i >= 0}
        assert reader.marked("W") == {("W", k, "") for k, i in enumerate(table[6]) if i >= 0}
        assert reader.sum()[0] == v["O"][6]
    for tensor in ("I", "dI"):
        reader.hover(tensor, 7)
        pairs = np.argwhere(table == 7)
        assert reader.marked("δ") == {("δ", o, texts["W"][k]) for o, k in pairs}
        assert reader.marked("W") == {("W", k, "") for _, k in pairs}
        assert reader.sum()[0] == v["dI"][7]
    for tensor in ("W", "dW"):
        reader.hover(tensor, 5)
        met = [(o, i) for o, i in enumerate(table[:, 5]) if i >= 0]
        assert reader.marked("δ") == {("δ", o, texts["I"][i]) for o, i in met}
        assert reader.marked("I") == {("I", i, texts["δ"][o]) for o, i in met}
        assert reader.sum()[0] == v["dW"][5]


def test_it_works_from_the_keyboard(read):
    tab, left, up, right, down, end, home = "\ue004", "\ue012", "\ue013", "\ue014", "\ue015", "\ue010", "\ue011"
    reader = read(LAYERS["same"]()[0])
    order = []
    for _ in range(8):
        reader.press(tab)
        order.append(reader.focused()[0])
    assert order == ["I", "dI", "W", "dW", "b", "db", "O", "δ"]
    reader.focus("O", 0)
    steps = []
    for key in (right, down, down, left, up, end, right, home, up):
        reader.press(key)
        steps.append(reader.focused()[1])
    assert steps == [1, 6, 11, 10, 5, 24, 24, 0, 0]
    reader.focus("I", 0)
    reader.press(up)  # onto the padding: stays
    assert reader.focused() == ["I", 0]
    focused = "getComputedStyle(document.activeElement)"
    assert reader.run(f"return [{focused}.outlineStyle, parseFloat({focused}.outlineWidth)]") == ["solid", 3]
    assert reader.run("return document.activeElement.ariaLabel") == f"I 11: {reader.values()['I'][0]:g}"
    roles = reader.run("return [...document.querySelectorAll('.live table')].map(t => [t.role, t.ariaLabel])")
    assert all(role == "grid" and label.strip() for role, label in roles)
    names = reader.run("return [...document.querySelectorAll('button, input')].map(b => b.ariaLabel)")
    assert all(names)


def test_buttons_step_and_play(read):
    reader = read(LAYERS["plain"]()[0])

    def press(text):
        reader.browser.find_element("xpath", f"//button[.='{text}']").click()

    def shown():
        return reader.run("return document.querySelector('.sum .result sub').textContent")

    assert shown() == "11"
    press("›")
    assert shown() == "12"
    press("‹")
    press("‹")
    assert shown() == "33"
    played = reader.run("""
        const result = () => document.querySelector('.sum .result sub').textContent;
        document.querySelector('button[aria-label^=Play]').click();
        return new Promise(done => new MutationObserver(() => done(result())).observe(
            document.querySelector('.sum'), {childList: true}))""")
    assert played == "11"
    press("Pause")
    reader.focus("W", 4)
    press("+")
    assert reader.values()["W"][4] == 3


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (int(n) / 255 for n in colour)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 390])
def test_text_is_legible_and_nothing_overflows(read, scheme, width):
    """Contrast of 4.5 or more (WCAG 2.2, 1.4.3), at a desktop's and a phone's width."""
    reader = read(LAYERS["plain"]()[0])
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    reader.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
    reader.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert reader.run("return document.documentElement.scrollWidth") <= width
    assert reader.run("return document.querySelector('.lens').getBoundingClientRect().bottom") <= 844
    paper = reader.run("return getComputedStyle(document.body).backgroundColor")
    paper = luminance(re.findall(r"\d+", paper)[:3])
    assert (paper > 0.5) == (scheme == "light")
    for selector in ("figcaption", ".why", ".hint", "td", ".chip [data-role]"):
        for colour in reader.run(
            f"return [...document.querySelectorAll('.live {selector}:not(.on)')].map(e => getComputedStyle(e).color)"
        ):
            ink = luminance(re.findall(r"\d+", colour)[:3])
            assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5, (selector, colour)
    reader.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
