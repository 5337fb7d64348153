// What a node of this pack says stays on it after a run: ComfyUI removes its own line of progress by then.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { ComfyWidgets } from "../../scripts/widgets.js";

const WIDGET = "said";
const LIVE = "$$node-text-preview"; // ComfyUI's own line of progress
// Some versions read that line as HTML. The same is in nodes/host/progress.py.
const HARMLESS = { "<": "\u2039", ">": "\u203a", "&": "\uff06" };
const harmless = (text) => text.replace(/[<>&]/g, (sign) => HARMLESS[sign]);
const said = new Map(); // node: the newest text, until the run has ended

const isOurs = (node) => node?.constructor?.nodeData?.category?.startsWith("MMD Guidance/"); // whatever our folder is called

function show(node, text) {
  let widget = node.widgets?.find(({ name }) => name === LIVE || name === WIDGET);
  if (!widget) {
    widget = ComfyWidgets.STRING(node, WIDGET, ["STRING", { multiline: true }], app).widget;
    widget.serialize = false; // no value of a workflow
    widget.options.serialize = false;
    widget.options.getMinHeight = () => 80;
    widget.label = "What it said";
    if (widget.element) {
      widget.element.readOnly = true;
      widget.element.style.opacity = 0.8;
    }
    node.setSize?.([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
  }
  widget.value = widget.name === LIVE ? harmless(text) : text;
  node.setDirtyCanvas(true, true);
}

const textOf = (output) => (Array.isArray(output?.text) ? output.text.join("\n\n") : "");

app.registerExtension({
  name: "mmd-guidance.keep-texts",
  setup() {
    api.addEventListener("progress_text", ({ detail }) => {
      const node = app.graph.getNodeById(detail.nodeId);
      if (isOurs(node) && !said.get(node)?.final) said.set(node, { text: detail.text });
    });
    api.addEventListener("execution_start", () => said.clear());
    for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
      api.addEventListener(end, () =>
        setTimeout(() => { // after ComfyUI has removed its line
          for (const [node, { text }] of said) if (node.graph) show(node, text);
        }, 100),
      );
    }
  },
  nodeCreated(node) {
    if (!isOurs(node)) return;
    const before = node.onExecuted;
    node.onExecuted = function (output) {
      before?.apply(this, arguments);
      const text = textOf(output);
      if (!text) return;
      said.set(this, { text, final: true });
      show(this, text);
    };
  },
  onNodeOutputsUpdated(outputs) { // a run is taken from the history
    for (const [id, output] of Object.entries(outputs)) {
      const node = app.graph.getNodeById(id);
      if (isOurs(node) && textOf(output)) show(node, textOf(output));
    }
  },
});
