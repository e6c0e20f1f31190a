// Builds static/vendor/: two minified modules, and the licences of every package that is in them.
import { build } from "esbuild";
import { readFile, readdir, writeFile } from "node:fs/promises";

const target = new URL("../../static/vendor/", import.meta.url);
const { metafile } = await build({
  absWorkingDir: import.meta.dirname,
  entryPoints: ["codemirror.js", "sql-formatter.js"],
  outdir: target.pathname,
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: true,
  legalComments: "none", // all licences are in licences.txt
  metafile: true,
});

const packages = new Set();
for (const input of Object.keys(metafile.inputs)) {
  const found = input.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)\//);
  if (found) packages.add(found[1]);
}
const pieces = [];
for (const name of [...packages].sort()) {
  const directory = new URL(`node_modules/${name}/`, import.meta.url);
  const { version, license } = JSON.parse(await readFile(new URL("package.json", directory), "utf8"));
  const file = (await readdir(directory)).find((entry) => /^licen[cs]e/i.test(entry));
  if (!file) throw new Error(`${name} comes without its licence`);
  pieces.push(`${name} ${version} (${license})\n\n${(await readFile(new URL(file, directory), "utf8")).trim()}\n`);
}
await writeFile(new URL("licences.txt", target), pieces.join(`\n${"-".repeat(80)}\n\n`));
