// Runs the module of two Sessions, and prints the report that it leaves in its memory.
import { readFile } from "node:fs/promises";
import { argv, exit } from "node:process";

const module = await WebAssembly.compile(await readFile(argv[2]));
const imports = WebAssembly.Module.imports(module);
if (imports.length > 0) {
  console.error("the module has imports, which no browser provides:", imports);
  exit(1);
}
const { exports } = await WebAssembly.instantiate(module, {});
let code = 1;
try {
  code = exports.main(0, 0);
} catch (trap) {
  console.error(`${trap}`);
}
const memory = Buffer.from(exports.memory.buffer).toString("latin1");
for (const [, line] of memory.matchAll(/selvedge-wasm> ((?:seed \d|panic: p|SELVEDGE_SEED is)[^\n\0]*)\n/g)) {
  console.log(`wasm32: ${line}`);
}
exit(code);
