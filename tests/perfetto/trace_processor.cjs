// Perfetto's trace processor, the WebAssembly build of its UI, as a filter: RPC bytes on stdin, replies on stdout.
// Argument: the folder with engine_bundle.js and trace_processor*.wasm. The bundle is a web worker's: it gets a worker's
// globals, and a port to talk through.
const fs = require("fs");
const path = require("path");
const vm = require("vm");

const { argv, stdin, stdout, stderr } = process;
const say = (...words) => stderr.write(words.join(" ") + "\n");
const port = { postMessage: (bytes) => stdout.write(bytes) };

class XMLHttpRequest {
  open(method, name) {
    this.name = name;
  }
  send() {
    const bytes = fs.readFileSync(path.join(argv[2], path.basename(this.name)));
    this.response = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
  }
}

const worker = {
  XMLHttpRequest,
  console: { log: say, warn: say, error: say, debug() {} },
  location: { href: "http://localhost/" },
  process: undefined,
  self: globalThis,
  WorkerGlobalScope: Object,
};
for (const [name, value] of Object.entries(worker)) Object.defineProperty(globalThis, name, { value });
vm.runInThisContext(fs.readFileSync(path.join(argv[2], "engine_bundle.js"), "utf8"));

setTimeout(() => {
  onmessage({ data: port });
  stdin.on("data", (chunk) => port.onmessage({ data: new Uint8Array(chunk) }));
}, 0);
