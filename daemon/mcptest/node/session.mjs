// Has one session with the daemon through one of the TypeScript SDKs, and
// tells on stdout, as JSON, what it saw. Package mcptest judges it: once after
// the line "aborted", when it looks into the sandbox and then closes our
// stdin, and once at the end.
//
//   node session.mjs v1|v2|v2-auto http URL
//   node session.mjs v1|v2|v2-auto stdio COMMAND ARGUMENT...
//
// v1 and v2 speak the protocol with sessions; v2-auto asks the server first,
// and so speaks the newest.

const [sdk, kind, ...address] = process.argv.slice(2);
const { client, transport, call } = await open(sdk, kind, address);
const saw = {};

await client.connect(transport);

const { tools } = await client.listTools();
saw.tools = tools.map((tool) => tool.name);
saw.arguments = Object.keys(tools[0].inputSchema.properties);
saw.description = tools[0].description;

// The first call makes the sandbox, which takes a moment and says so.
saw.progress = [];
const first = await call({ command: 'id; echo kept > /tmp/note' }, { onprogress: (p) => saw.progress.push(p.message) });
saw.first = first.structuredContent;

// Where nothing else ties calls together the first result says how.
const sandbox_id = first.structuredContent.sandbox_id;
const again = await call({ command: 'id; cat /tmp/note', sandbox_id });
saw.again = again.structuredContent;
saw.text = again.content[0].text;

const wrong = await call({ command: 'true', sandbox_id, comand: 'typo' });
saw.wrong = { isError: wrong.isError, text: wrong.content[0].text };

const abort = new AbortController();
const aborted = call({ command: 'sleep 300', sandbox_id }, { signal: abort.signal });
setTimeout(() => abort.abort(new Error('the user changed their mind')), 300);
await aborted.then(
  () => { throw new Error('the aborted call returned a result'); },
  (err) => { saw.aborted = String(err); },
);
console.log('aborted');
await new Promise((resolve) => process.stdin.on('end', resolve).resume());
saw.afterAbort = (await call({ command: 'id', sandbox_id })).structuredContent;

if (kind === 'http') {
  saw.session = transport.sessionId ?? '';
  await transport.terminateSession();
}
await client.close();
console.log(JSON.stringify(saw, null, 2));

// open returns a client that is not connected yet, and a function that calls
// sandbox_exec; an undefined argument is not sent.
async function open(sdk, kind, address) {
  const info = { name: `mcptest-${sdk}`, version: '1' };
  const stdio = () => ({ command: address[0], args: address.slice(1), stderr: 'inherit' });
  const tool = (args) => ({ name: 'sandbox_exec', arguments: JSON.parse(JSON.stringify(args)) });
  if (sdk === 'v1') {
    const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
    const { StdioClientTransport } = await import('@modelcontextprotocol/sdk/client/stdio.js');
    const { StreamableHTTPClientTransport } = await import('@modelcontextprotocol/sdk/client/streamableHttp.js');
    const client = new Client(info, { capabilities: {} });
    return {
      client,
      transport: kind === 'http' ? new StreamableHTTPClientTransport(new URL(address[0])) : new StdioClientTransport(stdio()),
      call: (args, options) => client.callTool(tool(args), undefined, options),
    };
  }
  const { Client, StreamableHTTPClientTransport } = await import('@modelcontextprotocol/client');
  const { StdioClientTransport } = await import('@modelcontextprotocol/client/stdio');
  const versionNegotiation = sdk === 'v2-auto' ? { mode: 'auto' } : undefined;
  const client = new Client(info, { capabilities: {}, versionNegotiation });
  return {
    client,
    transport: kind === 'http' ? new StreamableHTTPClientTransport(new URL(address[0])) : new StdioClientTransport(stdio()),
    call: (args, options) => client.callTool(tool(args), options),
  };
}
