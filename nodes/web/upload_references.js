// Pictures or a folder, dropped on a LoadReferenceSet node or chosen with its buttons, become a folder in
// ComfyUI's input folder, which the node then shows.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const NODE = "LoadReferenceSet";
const NEW_FOLDER = "pictures"; // for pictures that come without a folder
const READ = /\.(a?png|jpe?g|jpe|jfif|pjp|pjpeg|mpo|webp|bmp|dib|gif|tiff?|avifs?|hei[cf]s?|hif|jxl|txt|caption|jsonl?|csv)$/i;
const AT_ONCE = 4;

function tell(severity, detail) {
  app.extensionManager.toast.add({ severity, summary: "Reference Folder", detail, life: 8000 });
}

/** All files of a dropped folder, as {file, folder}, where `folder` begins with the name of the folder dropped. */
async function filesOf(entry, folder = "") {
  if (entry.isFile) {
    return [{ file: await new Promise((done, failed) => entry.file(done, failed)), folder }];
  }
  const inside = folder ? `${folder}/${entry.name}` : entry.name;
  const reader = entry.createReader();
  const found = [];
  for (;;) { // a reader gives at most 100 entries at a time
    const entries = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!entries.length) return found;
    for (const each of entries) found.push(...(await filesOf(each, inside)));
  }
}

/** A name that no folder has yet, so that two sets are never mixed. */
function unused(name, taken) {
  let free = name;
  for (let number = 2; taken.includes(free); number++) free = `${name}_${number}`;
  return free;
}

async function uploadOne({ file, folder }) {
  const body = new FormData();
  body.append("image", file, file.name);
  body.append("subfolder", folder);
  const answer = await api.fetchApi("/upload/image", { method: "POST", body });
  if (answer.status !== 200) throw new Error(`${file.name}: ${answer.status} ${answer.statusText}`);
}

async function upload(node, files, button) {
  const widget = node.widgets.find(({ name }) => name === "folder");
  const wanted = files.filter(({ file }) => READ.test(file.name) && !file.name.startsWith("."));
  if (!wanted.some(({ file }) => !/\.(txt|caption|jsonl?|csv)$/i.test(file.name))) {
    tell("warn", "There is no picture in what you chose. Choose PNG, JPEG or WebP files, or a folder with them.");
    return;
  }
  if (node.uploadsReferences) {
    tell("warn", "An upload is running. Wait until it ends, then try again.");
    return;
  }
  node.uploadsReferences = true;
  const label = button.label;
  const top = wanted[0].folder.split("/")[0];
  const name = unused(top || NEW_FOLDER, widget.options.values);
  // What lies in several dropped folders, or beside them, comes into one.
  const placed = wanted.map(({ file, folder }) => {
    const [first, ...rest] = folder.split("/");
    return { file, folder: [name, ...(first === top ? rest : [first, ...rest])].filter(Boolean).join("/") };
  });
  const waiting = [...placed];
  const work = async () => {
    while (waiting.length) {
      await uploadOne(waiting.shift());
      button.label = `${placed.length - waiting.length} of ${placed.length} uploaded`;
      node.setDirtyCanvas(true, true);
    }
  };
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    await app.refreshComboInNodes();
    // A new object: Nodes 2.0 does not see a value that is added to the old list, and marks it red.
    widget.options = { ...widget.options, values: [...new Set([...widget.options.values, name])] };
    widget.value = name;
    widget.callback?.(name);
    tell("success", `${placed.length} files are now in ComfyUI's input folder, in ${name}.`);
  } catch (error) {
    waiting.length = 0;
    tell("error", `The upload stopped at ${error.message}. Try again, or copy the folder to ComfyUI/input.`);
  } finally {
    node.uploadsReferences = false;
    button.label = label;
    node.setDirtyCanvas(true, true);
  }
}

function choose(node, button, folder) {
  const input = document.createElement("input");
  input.type = "file";
  input.multiple = true;
  input.webkitdirectory = folder;
  input.onchange = () => {
    const files = [...input.files].map((file) => ({
      file,
      folder: (file.webkitRelativePath || "").split("/").slice(0, -1).join("/"),
    }));
    if (files.length) upload(node, files, button);
  };
  input.click();
}

function addButton(node, label, folder) {
  const button = node.addWidget("button", label, null, () => choose(node, button, folder), { serialize: false });
  button.serialize = false; // its place among the values of a saved workflow stays free
  button.label = label;
  return button;
}

app.registerExtension({
  name: "mmd-guidance.upload-references",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const button = addButton(node, "upload pictures", false);
    addButton(node, "upload a folder", true);
    node.onDragOver = (event) => [...(event.dataTransfer?.items ?? [])].some(({ kind }) => kind === "file");
    node.onDragDrop = async (event) => {
      // The items are gone as soon as this function waits for something.
      const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
      if (!entries.length) return false;
      try {
        await upload(node, (await Promise.all(entries.map((entry) => filesOf(entry)))).flat(), button);
      } catch (error) {
        tell("error", `A file cannot be read: ${error.message}`);
      }
      return true;
    };
  },
});
