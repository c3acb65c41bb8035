// Uses a service through E2B's own SDK and tells on stdout, as JSON, what it
// saw. The Go test judges it.
//
//   E2B_API_URL=… E2B_SANDBOX_URL=… E2B_API_KEY=… node session.mjs

import { Sandbox, CommandExitError, TimeoutError, AuthenticationError } from 'e2b';

const saw = {};

const sandbox = await Sandbox.create('base', {
  timeoutMs: 60_000,
  metadata: { who: 'the SDK', odd: 'a b&c=d/é' },
  envs: { GREETING: 'hello' },
  allowInternetAccess: false,
});
saw.running = await sandbox.isRunning();
saw.info = await sandbox.getInfo();

const ran = await sandbox.commands.run('echo "$GREETING $NAME"; echo oops >&2', { envs: { NAME: 'world' } });
saw.ran = [ran.exitCode, ran.stdout, ran.stderr];
saw.failed = await sandbox.commands.run('exit 7').catch((e) => [e instanceof CommandExitError, e.exitCode]);
saw.timedOut = await sandbox.commands.run('sleep 60', { timeoutMs: 500 }).catch((e) => e instanceof TimeoutError);
saw.root = (await sandbox.commands.run('echo $USER', { user: 'root' })).stdout;
saw.noDir = await sandbox.commands.run('pwd', { cwd: '/no/such/directory' }).catch((e) => String(e.message));

const cat = await sandbox.commands.run('cat', { background: true, stdin: true });
await cat.sendStdin('x'.repeat(1 << 20));
saw.listed = (await sandbox.commands.list()).some((p) => p.pid === cat.pid);
await cat.closeStdin();
saw.cat = (await cat.wait()).stdout.length;

const sleep = await sandbox.commands.run('sleep 60', { background: true });
saw.killed = [await sleep.kill(), await sleep.wait().catch((e) => e instanceof CommandExitError)];

await sandbox.setTimeout(120_000);
const { endAt } = await sandbox.getInfo();
saw.later = endAt > saw.info.endAt;

const find = async (metadata) => {
  const pages = Sandbox.list({ query: { metadata }, limit: 1 });
  const ids = [];
  while (pages.hasNext) ids.push(...(await pages.nextItems()).map((s) => s.sandboxId));
  return ids;
};
const second = await Sandbox.create('base', { metadata: { who: 'the SDK' } });
saw.both = (await find({ who: 'the SDK' })).length;
saw.one = (await find({ odd: 'a b&c=d/é' }))[0] === sandbox.sandboxId;
saw.none = (await find({ who: 'somebody else' })).length;

const again = await Sandbox.connect(sandbox.sandboxId);
saw.again = (await again.commands.run('echo here')).stdout;

saw.end = [await sandbox.kill(), await sandbox.kill(), await second.kill()];
saw.runningAfter = await sandbox.isRunning();
saw.after = await sandbox.commands.run('true').catch((e) => e.constructor.name);
saw.noTemplate = await Sandbox.create('no-such-template').catch((e) => String(e.message));
saw.badKey = await Sandbox.list({ apiKey: 'e2b_ffffffffffffffffffffffffffffffffffffffff' }).nextItems().catch((e) => e instanceof AuthenticationError);
saw.left = (await find({ who: 'the SDK' })).length;

console.log(JSON.stringify(saw, null, 2));
process.exit(0); // the SDK keeps connections open for a while
