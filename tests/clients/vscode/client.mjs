// Uses a Jupyter server as the Jupyter extension of VS Code does: through @jupyterlab/services, with the token in the
// query, a session for a unique path, `stop_on_error: false`, cursors in UTF-16 units, kernel_info asked again and
// again until the kernel answers. Prints one JSON object with what it saw. VS Code itself is not run.
//
//   node client.mjs URL TOKEN KERNELSPEC

import { KernelManager, KernelSpecManager, ServerConnection, SessionManager } from '@jupyterlab/services';
import WebSocket from 'ws';

const [baseUrl, token, name] = process.argv.slice(2);
const DEADLINE = 120_000;
const posted = [];
const serverSettings = ServerConnection.makeSettings({
  baseUrl,
  wsUrl: baseUrl.replace(/^http/, 'ws'),
  token,
  appendToken: true,
  WebSocket,
  fetch: (input, init) => {
    const request = new Request(input, init);
    if (request.method === 'POST') {
      posted.push([new URL(request.url).pathname, request.headers.get('content-type')]);
    }
    return fetch(request);
  },
});

function within(promise, what) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error(`${what}: too late`)), DEADLINE).unref());
  return Promise.race([promise, late]);
}

async function run(kernel, code) {
  const cellId = `vscode-notebook-cell:/book.ipynb#W${Math.random().toString(36).slice(2)}sZmlsZQ==`;
  const future = kernel.requestExecute(
    { code, silent: false, stop_on_error: false, allow_stdin: true, store_history: true },
    false,
    { cellId },
  );
  const outputs = [];
  future.onIOPub = (message) => {
    if (message.header.msg_type !== 'status' && message.header.msg_type !== 'execute_input') {
      outputs.push(message.content);
    }
  };
  const reply = await within(future.done, code);
  return { status: reply.content.status, name: reply.content.ename, outputs };
}

const kernels = new KernelManager({ serverSettings });
const specs = new KernelSpecManager({ serverSettings });
const sessions = new SessionManager({ serverSettings, kernelManager: kernels });
await within(Promise.all([specs.ready, sessions.ready]), 'the server');
const path = `book-jvsc-${Date.now()}.ipynb`;
const session = await within(
  sessions.startNew({ path, name: path, type: 'notebook', kernel: { name } }),
  'a session',
);
const kernel = session.kernel;
const infos = [];
const asking = setInterval(() => infos.push(kernel.requestKernelInfo()), 500);
await within(kernel.info, 'kernel_info');
clearInterval(asking);
await within(Promise.all(infos), 'each kernel_info');

const seen = {};
seen.value = await run(kernel, 'let kept = 41; kept');
// Queued at once: the one that fails must not abort the one behind it.
const queued = [run(kernel, 'panic!("no")'), run(kernel, 'println!("text"); kept + 1')];
[seen.panic, seen.after] = await Promise.all(queued);
seen.error = await run(kernel, 'let x: i32 = "text";');
const code = 'let a = "😀"; kep';
const completed = await within(
  kernel.requestComplete({ code, cursor_pos: code.length }),
  'a completion',
);
seen.matches = completed.content.matches;
seen.types = completed.content.metadata._jupyter_types_experimental.length;
const looping = run(kernel, 'loop { check_interrupt(); }');
await new Promise((resolve) => {
  kernel.statusChanged.connect((_, status) => status === 'busy' && resolve());
  if (kernel.status === 'busy') {
    resolve();
  }
});
await kernel.interrupt();
seen.interrupted = await looping;
seen.kept = await run(kernel, 'kept');
await within(kernel.restart(), 'a restart');
seen.restarted = await run(kernel, 'kept');
await within(session.shutdown(), 'the end of the session');
seen.posted = posted;
console.log(JSON.stringify(seen));
process.exit(0);
