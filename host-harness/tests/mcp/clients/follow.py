"""Runs a command with the Python SDK, and does nothing but follow the messages until it has run.

    follow.py REVISION SERVER COMMAND

SERVER is a file with the snippet that `mcp --print-config json` printed, or a URL; the token for that is in the
variable TOKEN, because others can see a command line. The SDK itself checks results against the tools' output schemas.
"""

import asyncio
import json
import os
import re
import sys
from contextlib import AsyncExitStack

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

# No recovery takes more steps: whoever needs more goes in circles.
MOST_STEPS = 12


def named(text, tools):
    """The tools that a text names, in the order in which it names them."""
    return list(dict.fromkeys(word for word in re.findall(r"[A-Za-z0-9_]+", text) if word in tools))


def arguments(text):
    """The arguments that a text gives: `name: true` in backquotes."""
    given = {}
    for name, colon, value in (quoted.partition(": ") for quoted in text.split("`")[1::2]):
        try:
            if colon:
                given[name] = json.loads(value)
        except ValueError:
            pass  # This is no value, and what was quoted is no argument.
    return given


async def follow(client, command):
    """Answers why the command did not run, if it did not."""
    tools = [tool.name for tool in (await client.list_tools()).tools]
    called, told = [], []

    async def progress(*its):
        told.append(its)

    async def call(tool, given):
        called.append(tool)
        result = await client.call_tool(tool, given, progress_callback=progress)
        text = "".join(content.text for content in result.content if content.type == "text")
        print(f"{tool} {json.dumps(given)}: {text.rstrip()}", file=sys.stderr)
        return result, text

    async def until_it_ran():
        for _ in range(MOST_STEPS):
            result, text = await call("execute", {"command": command})
            if not result.is_error:
                return text, None
            for tool in named(text, tools):
                result, answer = await call(tool, arguments(text))
                if result.is_error or "error" in (result.structured_content or {}):
                    return answer, f"{tool} did not work out"
            if "the same call" not in text:
                return text, "the message is for the user"
        return text, "it goes in circles"

    last, why = await until_it_ran()
    print("called:", *called)
    print("progress:", len(told))
    print("last:", last.rstrip())
    return why


async def main(revision, server, command):
    async with AsyncExitStack() as stack:
        if server.startswith("http"):
            headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
            http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=300))
            transport = streamable_http_client(server, http_client=http)
        else:
            with open(server, encoding="utf-8") as snippet:
                transport = StdioServerParameters(**json.load(snippet)["mcpServers"]["workspace-recovery"])
        # The SDK takes the newest revision that both sides know, unless it has to begin with the old handshake.
        mode = "auto" if revision >= "2026" else "legacy"
        client = await stack.enter_async_context(Client(transport, mode=mode))
        if client.protocol_version != revision:
            return f"the revision is {client.protocol_version}, not {revision}"
        return await follow(client, command)


try:
    why = asyncio.run(main(*sys.argv[1:]))
except Exception as error:
    # What fails in one of the SDK's tasks comes in groups.
    while getattr(error, "exceptions", None):
        error = error.exceptions[0]
    why = f"{type(error).__name__}: {error}"
if why:
    sys.exit(f"the command did not run: {why}")
