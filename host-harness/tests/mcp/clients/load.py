"""Prints the names of the tools that LangChain gets with the snippet for it.

    load.py FILE
"""

import asyncio
import json
import sys

from langchain_mcp_adapters.client import MultiServerMCPClient


async def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as snippet:
        tools = await MultiServerMCPClient(json.load(snippet)).get_tools()
    print(" ".join(tool.name for tool in tools))


asyncio.run(main())
