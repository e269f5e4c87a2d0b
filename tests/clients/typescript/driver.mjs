// Drives an MCP server with the official TypeScript SDKs. See tests/clients/README.md.

import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";

const OPTIONS = {
  script: { type: "string" },
  set: { type: "string", multiple: true, default: [] },
  sdk: { type: "string", default: "v2" },
  mode: { type: "string", default: "auto" },
  timeout: { type: "string", default: "30" },
  url: { type: "string" },
  token: { type: "string" },
};
const IDENTITY = { name: "fixture-typescript", version: "0.0.0" };

// One shape over the two packages: the second line of the SDK, and its predecessor, which most clients use.
async function loadSdk(version) {
  if (version === "v2") {
    const [{ Client, StreamableHTTPClientTransport }, { StdioClientTransport }] = await Promise.all([
      import("@modelcontextprotocol/client"),
      import("@modelcontextprotocol/client/stdio"),
    ]);
    return { Client, StreamableHTTPClientTransport, StdioClientTransport };
  }
  const [{ Client }, { StreamableHTTPClientTransport }, { StdioClientTransport }] = await Promise.all([
    import("@modelcontextprotocol/sdk/client/index.js"),
    import("@modelcontextprotocol/sdk/client/streamableHttp.js"),
    import("@modelcontextprotocol/sdk/client/stdio.js"),
  ]);
  return { Client, StreamableHTTPClientTransport, StdioClientTransport };
}

function clientOptions({ sdk, mode }) {
  if (sdk === "v1") return {};
  return { versionNegotiation: { mode: mode === "auto" || mode === "legacy" ? mode : { pin: mode } } };
}

function openTransport(sdk, transport, options, [command, ...args]) {
  if (transport === "stdio") return new sdk.StdioClientTransport({ command, args });
  const headers = options.token === undefined ? {} : { Authorization: `Bearer ${options.token}` };
  return new sdk.StreamableHTTPClientTransport(new URL(options.url), { requestInit: { headers } });
}

// The script, with each {NAME} in its strings replaced as --set says.
async function loadSteps(path, settings) {
  const values = settings.map((setting) => {
    const at = setting.indexOf("=");
    return [`{${setting.slice(0, at)}}`, setting.slice(at + 1)];
  });
  const fill = (_key, value) =>
    typeof value === "string"
      ? values.reduce((text, [name, setting]) => text.replaceAll(name, setting), value)
      : value;
  return JSON.parse(await readFile(path, "utf8"), fill);
}

// All pages of a list, as one result.
async function listed(listPage, key) {
  const { nextCursor, ...result } = await listPage({});
  for (let cursor = nextCursor; cursor !== undefined; ) {
    const page = await listPage({ cursor });
    result[key].push(...page[key]);
    cursor = page.nextCursor;
  }
  return result;
}

const STEPS = {
  list_tools: (client, _, options) => listed((params) => client.listTools(params, options), "tools"),
  call_tool: (client, { name, arguments: args = {} }, options) => {
    const params = { name, arguments: args };
    // The predecessor takes a result schema between the two.
    return options.v1
      ? client.callTool(params, undefined, options)
      : client.callTool(params, options);
  },
  list_resources: (client, _, options) => listed((params) => client.listResources(params, options), "resources"),
  list_resource_templates: (client, _, options) =>
    listed((params) => client.listResourceTemplates(params, options), "resourceTemplates"),
  read_resource: (client, { uri }, options) => client.readResource({ uri }, options),
  list_prompts: (client, _, options) => listed((params) => client.listPrompts(params, options), "prompts"),
  get_prompt: (client, { name, arguments: args = {} }, options) =>
    client.getPrompt({ name, arguments: args }, options),
  complete: (client, { ref, argument }, options) => client.complete({ ref, argument }, options),
  set_log_level: (client, { level }, options) => client.setLoggingLevel(level, options),
  ping: (client, _, options) => client.ping(options),
};

function emit(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

function since(start) {
  return Math.round((performance.now() - start) * 1000) / 1000;
}

function describe(error) {
  return { code: error?.code, message: `${error?.message ?? error}`, data: error?.data };
}

async function drive(client, transport, steps, options, started) {
  emit({
    step: "connect",
    ms: since(started),
    result: {
      protocolVersion: client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion ?? transport.negotiated,
      serverInfo: client.getServerVersion(),
      capabilities: client.getServerCapabilities(),
    },
  });
  for (const step of steps) {
    const begun = performance.now();
    try {
      const result = await STEPS[step.step](client, step, options);
      emit({ step: step.step, name: step.name, ms: since(begun), result });
    } catch (error) {
      if (!step.may_fail) throw error;
      emit({ step: step.step, name: step.name, ms: since(begun), error: describe(error) });
    }
  }
}

async function main() {
  const { values, positionals } = parseArgs({ options: OPTIONS, allowPositionals: true });
  const [kind, ...command] = positionals;
  const steps = await loadSteps(values.script, values.set);
  const sdk = await loadSdk(values.sdk);
  const client = new sdk.Client(IDENTITY, clientOptions(values));
  const transport = openTransport(sdk, kind, values, command);
  // The predecessor tells the version only to its transport, and only if that asks.
  transport.setProtocolVersion ??= (version) => (transport.negotiated = version);
  const options = { timeout: Number(values.timeout) * 1000, v1: values.sdk === "v1" };
  const started = performance.now();
  await client.connect(transport, options);
  try {
    await drive(client, transport, steps, options, started);
  } finally {
    await client.close();
  }
}

main().catch((error) => {
  emit({ step: "failed", error: describe(error) });
  process.stderr.write(`driver: ${error?.message ?? error}\n`);
  process.exitCode = 1;
});
