// Code as the debugger takes it: without types, and with `import` as something that a script may do.

import { parse } from "acorn";

const LOAD = "globalThis[Symbol.for('soulbox')].load";

export async function prepared(code, isTyped) {
  const source = isTyped ? await untyped(code) : code;
  let program;
  try {
    program = parse(source, {
      ecmaVersion: "latest",
      sourceType: "module",
      allowAwaitOutsideFunction: true,
      allowHashBang: true,
    });
  } catch {
    // Scripts may say things that modules may not. The engine itself says what is wrong with the rest.
    return source;
  }
  const edits = [];
  for (const node of program.body) statement(node, source, edits);
  dynamic(program, edits);
  edits.sort((one, other) => other.start - one.start);
  return edits.reduce((text, edit) => text.slice(0, edit.start) + edit.text + text.slice(edit.end), source);
}

async function untyped(code) {
  const { transform } = (await import("sucrase")).default;
  return transform(code, {
    transforms: ["typescript"],
    disableESTransforms: true,
    keepUnusedImports: true,
  }).code;
}

function nameOf(node) {
  return node.type === "Literal" ? node.raw : node.name;
}

function statement(node, source, edits) {
  if (node.type === "ImportDeclaration") {
    edits.push({ start: node.start, end: node.end, text: imported(node) });
  } else if (node.type === "ExportNamedDeclaration" && node.declaration) {
    edits.push({ start: node.start, end: node.declaration.start, text: "" });
  } else if (node.type === "ExportNamedDeclaration" && !node.source) {
    edits.push({ start: node.start, end: node.end, text: "" });
  } else if (node.type === "ExportDefaultDeclaration") {
    edits.push({ start: node.start, end: node.declaration.start, text: "" });
  }
}

function imported(node) {
  const whole = node.specifiers.find((each) => each.type === "ImportNamespaceSpecifier");
  const parts = node.specifiers
    .filter((each) => each !== whole)
    .map((each) => `${each.imported ? nameOf(each.imported) : "default"}: ${each.local.name}`);
  const load = `await ${LOAD}(${node.source.raw})`;
  const statements = [];
  if (whole) statements.push(`var ${whole.local.name} = ${load};`);
  if (parts.length > 0) statements.push(`var { ${parts.join(", ")} } = ${load};`);
  // An import has no value, and must not become the result of the code.
  return `${statements.length > 0 ? statements.join(" ") : `${load};`} void 0;`;
}

function dynamic(node, edits) {
  if (node === null || typeof node !== "object") return;
  if (Array.isArray(node)) {
    for (const each of node) dynamic(each, edits);
    return;
  }
  if (node.type === "ImportExpression") edits.push({ start: node.start, end: node.start + "import".length, text: LOAD });
  for (const [key, value] of Object.entries(node)) {
    if (key !== "parent" && typeof value === "object") dynamic(value, edits);
  }
}
