"""The picture of the README: the shapes demonstration after a run, in ComfyUI's own page."""

from __future__ import annotations

import io
from pathlib import Path

from mmd_tests.browser.frontend import Frontend
from mmd_tests.support.server import Server
from PIL import Image

WIDTH, BYTES = 2000, 245_000
# The last group, without guidance, comes beside the others; notes and pictures in their own small
# size are left out, and every group ends with its nodes.
ARRANGE = """() => {
  for (const node of [...app.graph.nodes])
    if (['SaveImage', 'MarkdownNote'].includes(node.type)) app.graph.remove(node);
  const [before, last] = app.graph.groups.slice(-2);
  const inside = (node, group) => group.pos.every(
    (start, side) => node.pos[side] > start && node.pos[side] < start + group.size[side]);
  const held = app.graph.groups.map(group => app.graph.nodes.filter(node => inside(node, group)));
  const x = before.pos[0] + before.size[0] + 60 - last.pos[0], y = before.pos[1] - last.pos[1];
  for (const part of [last, ...held.at(-1)]) part.pos = [part.pos[0] + x, part.pos[1] + y];
  last.title = 'Without guidance (same seed)';
  app.graph.groups.forEach((group, i) => {
    const bottom = Math.max(...held[i].map(node => node.pos[1] + node.size[1])) + 20;
    group.size = [group.size[0], bottom - group.pos[1]];
  });
}"""


def take_picture(page: Frontend, server: Server, flow: dict, file: Path) -> None:
    """Run the workflow and write the picture, a JPEG that is no larger than need be."""
    page.page.set_viewport_size({"width": 2600, "height": 1500})
    page.open_workflow(flow, "shapes")
    page.page.evaluate(ARRANGE)
    page.run()
    while not server.get("/history"):
        page.page.wait_for_timeout(500)
    page.settle(8)  # until the message that it is done has gone
    shot = page.page.screenshot(clip=page.clip(page.show_all()))
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    picture = picture.resize((WIDTH, round(WIDTH * picture.height / picture.width)), Image.LANCZOS)
    for quality in range(90, 50, -4):
        picture.save(file, quality=quality, optimize=True, subsampling=0)
        if file.stat().st_size <= BYTES:
            break
