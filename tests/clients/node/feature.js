// Runs the steps of a Node client program and prints their results, as python/feature.py does.
import { isDeepStrictEqual, inspect } from "node:util";
import { createInterface } from "node:readline";
import { basename } from "node:path";

const STEP_LIMIT_MS = 30_000;
const RECOVERY_LIMIT_MS = 90_000;
const WAIT_MS = 20_000;

/** A name for a queue or exchange that no other run uses. */
export function name(what) {
  return `clients.${basename(process.argv[1])}.${process.pid}.${what}`;
}

export function equal(got, wanted, what) {
  if (!isDeepStrictEqual(got, wanted)) {
    throw new Error(`${what}: got ${inspect(got)}, wanted ${inspect(wanted)}`);
  }
}

export function check(isTrue, what) {
  if (!isTrue) throw new Error(what);
}

/** The promise's value, or an error after the time. */
export async function within(promise, what, limitMs = WAIT_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${limitMs} ms for ${what}`)), limitMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** What arrives, in its order, and the means to wait for it. */
export class Inbox {
  items = [];
  #told = () => {};

  put = (item) => {
    this.items.push(item);
    this.#told();
  };

  /** Waits until there are count items. */
  async have(count, what = `${count} messages`) {
    while (this.items.length < count) {
      await within(new Promise((resolve) => { this.#told = resolve; }), what);
    }
    return this.items;
  }
}

/** Tells the harness that the broker may die now; returns when it is back. */
export async function waitForRestart() {
  console.log("ready");
  const lines = createInterface({ input: process.stdin });
  const line = await new Promise((resolve) => {
    lines.once("line", resolve);
    lines.once("close", () => resolve("nothing"));
  });
  lines.close();
  process.stdin.destroy();
  check(line === "restarted", `the harness said ${line}`);
}

async function runStep(step, run) {
  const limit = step === "recovery" ? RECOVERY_LIMIT_MS : STEP_LIMIT_MS;
  try {
    await within(run(), "the step's end", limit);
    console.log(`ok ${step}`);
  } catch (error) {
    const at = /[\w-]*_client\.js:\d+/.exec(error.stack ?? "");
    console.log(`not ok ${step}: ${error} (${at ?? "no line"})`.replaceAll("\n", " "));
  }
}

/** Runs the steps named on the command line, or all but recovery, one after the other. */
export async function run(steps, perform) {
  const [host, port, ...wanted] = process.argv.slice(2);
  for (const step of wanted.length ? wanted : Object.keys(steps)) {
    if (step !== "recovery" || wanted.length) {
      await runStep(step, () => perform(host, Number(port), steps[step]));
    }
  }
}
