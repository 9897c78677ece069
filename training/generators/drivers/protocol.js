// Requests of `processes.py`: a line of JSON in, a line of JSON out.
'use strict';

const crypto = require('crypto');
const readline = require('readline');

let state = 0;

// mulberry32: libraries take their chance from Math.random and crypto.randomBytes.
function random() {
  state = (state + 0x6d2b79f5) | 0;
  let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
}

Math.random = random;
crypto.randomBytes = (size) => Buffer.from(Array.from({ length: size }, () => Math.floor(random() * 256)));
// Libraries print warnings: standard output is for replies alone.
console.log = console.error;

// Answer each request with `draw(settings)`: { image: Buffer, label, kind, expression }.
async function serve(draw) {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    state = request.seed;
    let reply;
    try {
      const drawing = await draw(request.settings);
      reply = { ...drawing, image: drawing.image.toString('base64') };
    } catch (error) {
      reply = { error: String(error) };
    }
    process.stdout.write(JSON.stringify(reply) + '\n');
  }
}

module.exports = { serve };
