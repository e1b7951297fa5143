// Compiles the schemas of the tools that it reads, as strictly as the validator can, and says which it refuses.
import fs from "node:fs";
import Ajv from "ajv/dist/2020.js";

const read = JSON.parse(fs.readFileSync(0));
const tools = read.tools ?? read;
if (tools.length === 0) throw new Error("there is no tool");
for (const tool of tools) {
  for (const schema of [tool.inputSchema, tool.outputSchema].filter(Boolean)) {
    try {
      new Ajv.default({ strict: true, allErrors: true }).compile(schema);
    } catch (error) {
      console.error(`${tool.name}: ${error.message}`);
      process.exitCode = 1;
    }
  }
}
