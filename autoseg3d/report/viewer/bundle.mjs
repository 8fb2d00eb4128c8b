// Copies NiiVue's browser bundle beside this file, headed by the licences of everything in it.
import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const modules = join(here, "node_modules");
const lock = JSON.parse(readFileSync(join(here, "package-lock.json"), "utf8"));

function licence(folder) {
  const name = readdirSync(folder).find((file) => /^licen[cs]e/i.test(file));
  return name ? readFileSync(join(folder, name), "utf8").trim() : null;
}

const notices = [];
for (const [place, entry] of Object.entries(lock.packages)) {
  const folder = join(here, place);
  if (!place || entry.optional || !existsSync(folder)) continue;
  const name = place.slice(place.lastIndexOf("node_modules/") + 13);
  const text = name === "@niivue/niivue" ? readFileSync(join(here, "NIIVUE-LICENSE"), "utf8").trim() : licence(folder);
  notices.push(`${name} ${entry.version} (${entry.license})${text ? `\n${text}` : ""}`);
}
const head = `/*!\n${notices.join("\n\n").replaceAll("*/", "* /")}\n*/\n`;
const bundle = readFileSync(join(modules, "@niivue/niivue/dist/niivue.umd.js"), "utf8");
const target = join(here, "niivue.js");
writeFileSync(`${target}.new`, head + bundle);
renameSync(`${target}.new`, target);
console.log(`${target}: ${Math.round((head.length + bundle.length) / 1024)} kB`);
