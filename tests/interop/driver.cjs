// Locks with node-redlock for the tests: node driver.cjs VERSION PORT... reads requests from standard input, one JSON
// object a line, answers each in a line, and ends with its input.
//
//   {id, do: "lock", resources, ttl, retries}  ->  {id, lock, value}
//   {id, do: "extend" | "unlock", lock, ttl}   ->  {id}
//
// What fails is answered as {id, error, message}. The first line of all is {ready: true}.
"use strict";

const readline = require("readline");
const Redis = require("ioredis");

const [version, ...ports] = process.argv.slice(2);
const ONE_ATTEMPT = { retryCount: 0, retryDelay: 20, retryJitter: 10 };
const CLIENTS = {
  4: (nodes) => new (require("redlock4"))(nodes, ONE_ATTEMPT),
  5: (nodes) => new (require("redlock5").default)(nodes, ONE_ATTEMPT),
};
const LOCK = {
  4: (redlock, resources, ttl, options) => redlock.lockWithOptions(resources, ttl, options),
  5: (redlock, resources, ttl, options) => redlock.acquire(resources, ttl, options),
};

async function main() {
  const nodes = ports.map((port) => new Redis({ host: "127.0.0.1", port: Number(port), lazyConnect: true }));
  await Promise.all(nodes.map((node) => node.connect()));
  const redlock = CLIENTS[version](nodes);
  const locks = new Map();
  let last = 0;

  const run = {
    async lock({ resources, ttl, retries }) {
      const held = await LOCK[version](redlock, resources, ttl, { ...ONE_ATTEMPT, retryCount: retries });
      const lock = ++last;
      locks.set(lock, held);
      return { lock, value: held.value };
    },
    async extend({ lock, ttl }) {
      locks.set(lock, await locks.get(lock).extend(ttl));
      return {};
    },
    async unlock({ lock }) {
      const held = locks.get(lock);
      locks.delete(lock);
      await redlock[version === "4" ? "unlock" : "release"](held);
      return {};
    },
  };

  say({ ready: true });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    run[request.do](request).then(
      (answer) => say({ id: request.id, ...answer }),
      (error) => say({ id: request.id, error: error.name, message: error.message }),
    );
  }
  process.exit(0);
}

function say(answer) {
  process.stdout.write(JSON.stringify(answer) + "\n");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
