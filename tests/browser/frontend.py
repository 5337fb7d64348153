"""ComfyUI's own page in a headless browser: what a user does there, and what a user sees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmd_tests.browser.layout import Box, Group, Node, around
from playwright.sync_api import Locator, Page, sync_playwright

VIEW = {"width": 2240, "height": 1260}
SETTINGS = {  # what a first visit would show, and what would cover nodes
    "Comfy.TutorialCompleted": True,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "LiteGraph.Canvas.LowQualityRenderingZoomThreshold": 0.01,  # text at every zoom
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
}
# Files of the user's own, and thumbnails, which have a check of their own.
MAY_BE_MISSING = ("/api/userdata", "/user.css", "/api/workflow_templates/")
LEFT, TOP, RIGHT, BOTTOM = 90, 110, 30, 90  # of the page, that tool bars cover

NODES = """() => app.graph.nodes.map(node => {
  const title = LiteGraph.NODE_TITLE_HEIGHT, [x, y] = node.pos, [width, height] = node.size;
  const element = document.querySelector(`[data-node-id="${node.id}"]`);  // only in Nodes 2.0
  const shown = element?.getBoundingClientRect() ?? {width: 0, height: 0};
  const scale = app.canvas.ds.scale;
  const live = node.widgets?.find(widget => widget.name === '$$node-text-preview');
  const text = (node.type === 'MarkdownNote' ? node.widgets[0] : live)?.element;
  const note = text && (element ?? text);
  const texts = note ? [note, ...note.querySelectorAll('*')] : [];
  const scrolled = texts.filter(text => /auto|scroll/.test(getComputedStyle(text).overflowY)
    && text.checkVisibility({checkOpacity: true, checkVisibilityCSS: true}));
  return {
    name: `${node.title} (${node.type} ${node.id})`,
    box: [x, y - title, Math.max(width, shown.width / scale),
          Math.max(height + title, shown.height / scale)],
    body: [width, height],
    minimum: [...node.computeSize()],
    cut: Math.max(0, ...scrolled.map(text => text.scrollHeight - text.clientHeight)),
  };
})"""
GROUPS = "() => app.graph.groups.map(group => [group.title, [...group.pos, ...group.size]])"
FAULTS = """() => [
  ...app.graph.nodes.filter(node => !LiteGraph.registered_node_types[node.type])
    .map(node => `there is no node ${node.type}`),
  ...app.graph.nodes.filter(node => node.constructor.nodeData?.deprecated)
    .map(node => `${node.title} is deprecated`),
  ...app.graph.nodes.filter(node => node.has_errors).map(node => `${node.title} is marked red`),
  ...app.graph.nodes.flatMap(node => (node.widgets ?? []).map(widget => {
    let offered = widget.type === 'combo' && widget.options?.values;
    if (typeof offered === 'function') offered = offered(widget, node);
    return Array.isArray(offered) && !offered.includes(widget.value)
      && `${node.title} offers no ${widget.name} "${widget.value}"`;
  })).filter(Boolean),
]"""
TOASTS = ".p-toast-message, [data-toast-kind]"  # of the pinned frontend, and of the newest
MESSAGES = f"[data-testid=error-overlay], {TOASTS}, [role=dialog], [role=alertdialog]"
SHOW = """([scale, x, y]) => {
  app.canvas.deselectAll?.();
  app.canvas.ds.scale = scale;
  app.canvas.ds.offset = [x, y];
  app.canvas.setDirty(true, true);
}"""
TELL = """async events => {
  for (const [kind, detail] of events) {
    if (detail.picture) detail.blob = await (await fetch(detail.picture)).blob();
    app.api.dispatchEvent(new CustomEvent(kind, {detail}));
  }
}"""
SHOWN = """() => Object.fromEntries(app.graph.nodes.map(node => [node.id, {
  type: node.type,
  title: node.title,
  pictures: (node.imgs ?? []).filter(picture => picture.naturalWidth > 0).length,
  text: (node.widgets ?? []).map(widget => widget.element?.value ?? widget.value)
    .filter(value => typeof value === 'string').join('\\n'),
}]))"""
ADD = """kind => {
  const used = app.graph.last_node_id;
  app.graph.clear();
  app.graph.last_node_id = used;  // values are kept by the number of a node, also of those that are gone
  const node = LiteGraph.createNode(kind);
  app.graph.add(node);
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [500, 300];
  app.canvas.selectNode(node);
  app.canvas.setDirty(true, true);
}"""
WIDE = """page => [...page.querySelectorAll('pre, table, img')]
  .filter(part => Math.max(part.scrollWidth, part.offsetWidth) > page.clientWidth + 1)
  .map(part => `${part.tagName.toLowerCase()} "${part.innerText.slice(0, 30)}" is wider than the panel`)"""
LOADED = "image => image.complete && image.naturalWidth > 0"


class Frontend:
    """The page; `errors` are those that it has logged since `forget` was called."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.errors: list[str] = []
        page.on("console", lambda message: message.type == "error" and self._note(message.text))
        page.on("pageerror", lambda error: self._note(str(error)))
        page.on("response", lambda answer: answer.status >= 400 and self._note_answer(answer))

    def _note(self, text: str) -> None:
        # Which file it was is noted by _note_answer.
        if "Failed to load resource" not in text:
            self.errors.append(text.splitlines()[0])

    def _note_answer(self, answer) -> None:
        path = answer.url.removeprefix(self.url)
        if not path.startswith(MAY_BE_MISSING) and not path.endswith("/en.md"):
            self.errors.append(f"{answer.status} for {path}")

    def forget(self) -> None:
        """Begin with no errors: those of the page's own start, for example, are not ours."""
        self.errors.clear()

    def open(self) -> None:
        """Open the page anew and wait until it can be used."""
        self.page.goto(self.url)
        ready = "window.app?.extensionManager && window.app.graph && window.LiteGraph"
        self.page.wait_for_function(ready)
        self.page.locator("canvas#graph-canvas").wait_for()
        self.settle()

    def settle(self, seconds: float = 1.0) -> None:
        """Wait until nothing is loaded any more and sizes have been computed."""
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_timeout(1000 * seconds)

    def draw_nodes_as(self, modern: bool) -> None:
        """Choose between the classic nodes and those called Nodes 2.0."""
        setting = "app.extensionManager.setting.set('Comfy.VueNodes.Enabled', modern)"
        self.page.evaluate(f"modern => {setting}", modern)
        self.settle()

    # --- templates ------------------------------------------------------------------------------

    def browse_templates(self, pack: str) -> Locator:
        """Open the dialog of templates at this pack's, and return their cards."""
        self.page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_text(pack, exact=True).first.click()
        self.settle()
        return dialog.locator("[data-testid^=template-workflow-]")

    def open_template(self, pack: str, name: str) -> None:
        """Open a template as a user does."""
        self.browse_templates(pack).and_(
            self.page.get_by_test_id(f"template-workflow-{name}")
        ).click()
        self.page.get_by_role("dialog").wait_for(state="detached")
        self.settle()

    def open_workflow(self, workflow: dict, name: str) -> None:
        """Open a workflow as from a file."""
        self.page.evaluate(
            "([flow, name]) => app.loadGraphData(flow, true, true, name)", [workflow, name]
        )
        self.settle()

    # --- the canvas -----------------------------------------------------------------------------

    def nodes(self) -> list[Node]:
        """The nodes as they lie on the canvas."""
        return [
            Node(
                each["name"], Box(*each["box"]), (*each["body"],), (*each["minimum"],), each["cut"]
            )
            for each in self.page.evaluate(NODES)
        ]

    def groups(self) -> list[Group]:
        """The groups as they lie on the canvas."""
        return [Group(name, Box(*box)) for name, box in self.page.evaluate(GROUPS)]

    def faults(self) -> list[str]:
        """What the page complains of: unknown nodes, values that are not offered, messages."""
        texts = self.page.locator(MESSAGES).filter(visible=True).all_inner_texts()
        return [*self.page.evaluate(FAULTS), *(" ".join(text.split()) for text in texts)]

    def show_all(self) -> Box:
        """Bring the whole graph into view, and return where on the page it is."""
        return self.show(around([each.box for each in (*self.nodes(), *self.groups())]))

    def show(self, whole: Box) -> Box:
        """Bring a part of the canvas into view, and return where on the page it is."""
        view = self.page.viewport_size
        wide, high = view["width"] - LEFT - RIGHT, view["height"] - TOP - BOTTOM
        scale = min(1.0, wide / whole.width, high / whole.height)
        x = LEFT + (wide - scale * whole.width) / 2
        y = TOP + (high - scale * whole.height) / 2
        self.page.mouse.move(0, 0)  # no tooltips
        self.page.evaluate(SHOW, [scale, x / scale - whole.x, y / scale - whole.y])
        self.page.wait_for_timeout(700)
        return Box(x, y, scale * whole.width, scale * whole.height)

    def clip(self, box: Box, margin: float = 10) -> dict[str, float]:
        """A part of the page, for a screenshot."""
        wide, high = box.width + 2 * margin, box.height + 2 * margin
        return {"x": box.x - margin, "y": box.y - margin, "width": wide, "height": high}

    def take(self, file: Path) -> None:
        """Take a screenshot of the page."""
        self.page.screenshot(path=file)

    # --- running --------------------------------------------------------------------------------

    def run(self) -> None:
        """Press Run."""
        self.page.get_by_test_id("queue-button").click()

    def tell(self, events: list[tuple[str, dict]]) -> None:
        """Hand the page these events, as if the server had sent them."""
        self.page.evaluate(TELL, events)
        self.settle()

    def shown(self) -> dict[str, dict]:
        """By node: type, title, how many pictures it shows, and its text."""
        return self.page.evaluate(SHOWN)

    def queued(self) -> dict[str, dict]:
        """The workflow in the API format, as Run would queue it."""
        return self.page.evaluate("app.graphToPrompt().then(({output}) => output)")

    def search(self, words: str) -> list[str]:
        """Open the search for nodes, and return the titles that it lists, best first."""
        self.page.evaluate("app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
        self.page.get_by_role("combobox", name="Add a node").fill(words)
        self.settle()
        return self.page.locator("#results-list [role=option]").all_inner_texts()

    def add_found(self) -> None:
        """Put the first node that was found on the canvas."""
        self.page.keyboard.press("Enter")
        self.page.mouse.click(900, 600)
        self.settle()

    # --- help -----------------------------------------------------------------------------------

    def open_help(self, kind: str) -> Locator:
        """Open the help page of a node and return what is shown."""
        self.page.evaluate(ADD, kind)
        self.page.get_by_test_id("info-button").click()
        self.settle(0.5)
        return self.page.locator(".node-help-content")

    def upload(self, kind: str, folder: Path) -> str:
        """Choose a folder with the upload button of a node, and return the folder that it then shows."""
        self.page.evaluate(ADD, kind)
        self.settle()
        press = "app.graph.nodes[0].widgets.find(({name}) => name === 'upload a folder').callback()"
        with self.page.expect_file_chooser() as chooser:
            self.page.evaluate(press)
        chooser.value.set_files(folder)
        self.page.locator(TOASTS, has_text="input folder").first.wait_for()
        self.settle()
        return self.page.evaluate("app.graph.nodes[0].widgets[0].value")

    def too_wide(self, content: Locator) -> list[str]:
        """What of a page sticks out of its panel."""
        return content.evaluate(WIDE)

    def unloaded(self, pictures: Locator) -> list[str]:
        """Which of these pictures have not been loaded."""
        for picture in pictures.all():  # they are only loaded once they are in view
            picture.scroll_into_view_if_needed()
        self.settle(0.3)
        return [
            f"picture {picture.get_attribute('src')} is not loaded"
            for picture in pictures.all()
            if not picture.evaluate(LOADED)
        ]


@contextmanager
def frontend(browser: str, url: str, theme: str = "dark") -> Iterator[Frontend]:
    """The page of the server at `url` in the Chromium `browser`; nothing else can be reached."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser)
        try:
            context = chromium.new_context(viewport=VIEW, locale="en-US")
            context.set_default_timeout(60_000)
            settings = {**SETTINGS, "Comfy.ColorPalette": theme}
            context.request.post(f"{url}/api/settings", data=json.dumps(settings))
            inside = (url, "blob:", "data:")
            context.route(lambda address: not address.startswith(inside), lambda way: way.abort())
            page = Frontend(context.new_page(), url)
            page.open()
            page.forget()
            yield page
        finally:
            chromium.close()
