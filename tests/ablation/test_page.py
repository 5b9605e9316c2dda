"""The report in a real browser: every picture is drawn, and a phone's width is enough."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from compose.ablation.results import Study

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)

#: Shows the page in a frame as wide as a phone, and writes down what it finds there.
FRAME = """<!doctype html><body><iframe src="report.html" width="390" height="800"></iframe><script>
document.querySelector("iframe").onload = event => {
  const page = event.target.contentDocument;
  const drawn = [...page.images].filter(image => image.complete && image.naturalWidth > 0).length;
  const out = document.createElement("p");
  out.textContent = `found ${page.documentElement.scrollWidth} ${drawn} ${page.images.length}`;
  document.body.append(out);
};
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")
def test_a_phone_shows_it_without_scrolling_sideways(done: Study, tmp_path: Path):
    shutil.copy(done.folder.path / "report.html", tmp_path / "report.html")
    (tmp_path / "frame.html").write_text(FRAME)
    words = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--virtual-time-budget=5000",
    ]
    seen = subprocess.run(
        [BROWSER, *words, "--dump-dom", f"file://{tmp_path / 'frame.html'}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = re.search(r"found (\d+) (\d+) (\d+)", seen.stdout)
    assert found is not None, seen.stdout
    width, drawn, pictures = map(int, found.groups())
    assert width <= 390
    assert drawn == pictures == 6
