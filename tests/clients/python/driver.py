"""Drives an MCP server with the official Python SDK. See tests/clients/README.md."""

import argparse
import asyncio
import json
import sys
import time

from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp_types import PromptReference, ResourceTemplateReference


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("transport", choices=["stdio", "http"])
    parser.add_argument("--script", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--mode", default="auto", help="auto, legacy, or a version to insist on")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds for each answer")
    parser.add_argument("--url")
    parser.add_argument("--token")
    # argparse keeps or drops `--` as its version pleases.
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments = parser.parse_args(sys.argv[1:split])
    arguments.command = sys.argv[split + 1 :]
    return arguments


def load_steps(path, settings):
    """The script, with each {NAME} in its strings replaced as --set says."""
    values = dict(setting.split("=", 1) for setting in settings)

    def fill(value):
        if isinstance(value, dict):
            return {key: fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [fill(item) for item in value]
        if isinstance(value, str):
            for name, setting in values.items():
                value = value.replace("{" + name + "}", setting)
        return value

    with open(path) as file:
        return fill(json.load(file))


def reference(ref):
    kind = {"ref/prompt": PromptReference, "ref/resource": ResourceTemplateReference}[ref["type"]]
    return kind.model_validate(ref)


async def listed(list_page, key):
    """All pages of a list, as one result."""
    result, cursor = None, None
    while True:
        page = plain(await list_page(cursor=cursor))
        if result is None:
            result = page
        else:
            result[key] += page[key]
        cursor = page.pop("nextCursor", None)
        if cursor is None:
            return result


STEPS = {
    "list_tools": lambda client, step: listed(client.list_tools, "tools"),
    "call_tool": lambda client, step: client.call_tool(step["name"], step.get("arguments", {})),
    "list_resources": lambda client, step: listed(client.list_resources, "resources"),
    "list_resource_templates": lambda client, step: listed(client.list_resource_templates, "resourceTemplates"),
    "read_resource": lambda client, step: client.read_resource(step["uri"]),
    "list_prompts": lambda client, step: listed(client.list_prompts, "prompts"),
    "get_prompt": lambda client, step: client.get_prompt(step["name"], step.get("arguments", {})),
    "complete": lambda client, step: client.complete(reference(step["ref"]), step["argument"]),
    "set_log_level": lambda client, step: client.set_logging_level(step["level"]),
    "ping": lambda client, step: client.send_ping(),
}


def plain(value):
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return value


def emit(**line):
    print(json.dumps(line), flush=True)


async def drive(client, steps, connecting):
    emit(
        step="connect",
        ms=since(connecting),
        result={
            "protocolVersion": client.protocol_version,
            "serverInfo": plain(client.server_info),
            "capabilities": plain(client.server_capabilities),
        },
    )
    for step in steps:
        started = time.monotonic()
        try:
            result = await STEPS[step["step"]](client, step)
        except Exception as error:
            if not step.get("may_fail"):
                raise
            emit(step=step["step"], name=step.get("name"), ms=since(started), error=describe(error))
            continue
        emit(step=step["step"], name=step.get("name"), ms=since(started), result=plain(result))


def since(start):
    return round((time.monotonic() - start) * 1000, 3)


def describe(error):
    """The protocol error with its code where there is one, else the innermost exception."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    protocol = getattr(error, "error", None)
    return plain(protocol) if protocol is not None else {"message": f"{type(error).__name__}: {error}"}


async def main(arguments):
    steps = load_steps(arguments.script, arguments.set)
    options = {"mode": arguments.mode, "read_timeout_seconds": arguments.timeout}
    started = time.monotonic()
    if arguments.transport == "stdio":
        command, *rest = arguments.command
        async with Client(StdioServerParameters(command=command, args=rest), **options) as client:
            await drive(client, steps, started)
        return
    headers = {"Authorization": f"Bearer {arguments.token}"} if arguments.token else None
    async with create_mcp_http_client(headers=headers) as http:
        async with Client(streamable_http_client(arguments.url, http_client=http), **options) as client:
            await drive(client, steps, started)


if __name__ == "__main__":
    try:
        asyncio.run(main(parse_arguments()))
    except Exception as error:
        emit(step="failed", error=describe(error))
        print(f"driver: {describe(error)}", file=sys.stderr)
        sys.exit(1)
