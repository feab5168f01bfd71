// Compiles every contract of src/ and testing/ and writes one JSON each, ABI and bytecode, into the folder that is named.
//
//     node compile.mjs SOURCES INTO     (packages are looked for beside this file)
//
// The input is the whole of what the result depends on: two runs anywhere give the same bytes.
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import solc from "solc";

const packages = join(dirname(fileURLToPath(import.meta.url)), "node_modules");
const { version } = createRequire(import.meta.url)("solc/package.json");
const [sources, into] = process.argv.slice(2);

const files = ["src", "testing"].flatMap((folder) =>
  readdirSync(join(sources, folder)).sort().map((name) => `${folder}/${name}`),
);
const input = {
  language: "Solidity",
  sources: Object.fromEntries(files.map((file) => [file, { content: readFileSync(join(sources, file), "utf8") }])),
  settings: {
    // What Ethereum, Base and Avalanche all run.
    evmVersion: "cancun",
    optimizer: { enabled: true, runs: 1_000_000 },
    outputSelection: { "*": { "*": ["abi", "evm.bytecode.object"] } },
  },
};
const contents = (path) => ({ contents: readFileSync(join(packages, path), "utf8") });
const output = JSON.parse(solc.compile(JSON.stringify(input), { import: contents }));
const faults = output.errors ?? [];
if (faults.length > 0) {
  console.error(faults.map((fault) => fault.formattedMessage).join("\n"));
  process.exit(1);
}
mkdirSync(into, { recursive: true });
for (const file of files) {
  for (const [name, { abi, evm }] of Object.entries(output.contracts[file] ?? {})) {
    const artifact = {
      contract: `${file}:${name}`,
      compiler: `solc ${version}`,
      abi,
      bytecode: `0x${evm.bytecode.object}`,
    };
    writeFileSync(join(into, `${name}.json`), `${JSON.stringify(artifact, null, 1)}\n`);
  }
}
