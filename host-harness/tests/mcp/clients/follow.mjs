// Runs a command with the TypeScript SDK, and does nothing but follow the messages until it has run.
//
//     follow.mjs REVISION SERVER COMMAND
//
// SERVER is a file with the snippet that `mcp --print-config json` printed, or a URL; the token for that is in the
// variable TOKEN, because others can see a command line. The SDK itself checks results against the tools' output
// schemas.

import { readFileSync } from "node:fs";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";

// No recovery takes more steps: whoever needs more goes in circles.
const MOST_STEPS = 12;

/** The tools that a text names, in the order in which it names them. */
function named(text, tools) {
  return [...new Set(text.match(/[A-Za-z0-9_]+/g))].filter((word) => tools.includes(word));
}

/** The arguments that a text gives: `name: true` in backquotes. */
function argumentsIn(text) {
  const given = {};
  for (const quoted of text.split("`").filter((_, index) => index % 2 === 1)) {
    const [name, ...value] = quoted.split(": ");
    try {
      given[name] = JSON.parse(value.join(": "));
    } catch {
      // This is no value, and what was quoted is no argument.
    }
  }
  return given;
}

/** Answers why the command did not run, if it did not. */
async function follow(client, command) {
  const tools = (await client.listTools()).tools.map((tool) => tool.name);
  const called = [];
  let told = 0;

  async function call(tool, given) {
    called.push(tool);
    // A recovery may take longer than a request usually may: as long as progress is told, it is waited for.
    const options = { onprogress: () => (told += 1), resetTimeoutOnProgress: true };
    const result = await client.callTool({ name: tool, arguments: given }, options);
    const text = result.content.map((content) => content.text ?? "").join("");
    console.error(`${tool} ${JSON.stringify(given)}: ${text.trimEnd()}`);
    return { text, failed: result.isError === true, data: result.structuredContent ?? {} };
  }

  async function untilItRan() {
    let ran;
    for (let step = 0; step < MOST_STEPS; step += 1) {
      ran = await call("execute", { command });
      if (!ran.failed) return [ran.text];
      for (const tool of named(ran.text, tools)) {
        const result = await call(tool, argumentsIn(ran.text));
        if (result.failed || "error" in result.data) return [result.text, `${tool} did not work out`];
      }
      if (!ran.text.includes("the same call")) return [ran.text, "the message is for the user"];
    }
    return [ran.text, "it goes in circles"];
  }

  const [last, why] = await untilItRan();
  console.log("called:", ...called);
  console.log("progress:", told);
  console.log("last:", last.trimEnd());
  return why;
}

async function main(revision, server, command) {
  const over = server.startsWith("http")
    ? new StreamableHTTPClientTransport(new URL(server), { authProvider: { token: async () => process.env.TOKEN } })
    : new StdioClientTransport(JSON.parse(readFileSync(server, "utf8")).mcpServers["workspace-recovery"]);
  // The SDK takes the newest revision that both sides know, unless it has to begin with the old handshake.
  const versionNegotiation = { mode: revision >= "2026" ? "auto" : "legacy" };
  const client = new Client({ name: "follow", version: "1.0.0" }, { versionNegotiation });
  await client.connect(over);
  try {
    const negotiated = client.getNegotiatedProtocolVersion();
    if (negotiated !== revision) return `the revision is ${negotiated}, not ${revision}`;
    return await follow(client, command);
  } finally {
    await client.close();
  }
}

const why = await main(...process.argv.slice(2)).catch((error) => `${error}`);
if (why) {
  console.error(`the command did not run: ${why}`);
  process.exitCode = 1;
}
