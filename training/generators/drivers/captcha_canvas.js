// captcha-canvas: skewed letters that a zig-zag joins, among decoys.
'use strict';

const { createCanvas } = require('canvas');
const { CaptchaGenerator } = require('captcha-canvas');
const { serve } = require('./protocol.js');

function fill(width, height, colours) {
  const canvas = createCanvas(width, height);
  const context = canvas.getContext('2d');
  const gradient = context.createLinearGradient(0, 0, width, height);
  colours.forEach((colour, index) => gradient.addColorStop(index / Math.max(1, colours.length - 1), colour));
  context.fillStyle = colours.length > 1 ? gradient : colours[0];
  context.fillRect(0, 0, width, height);
  return canvas.toBuffer();
}

// Options of one captcha stay set in the next: each is given each time.
const captchaDefaults = {
  characters: 6, size: 40, font: 'Sans', skew: true, colors: [], rotate: 5, color: '#32cf7e', opacity: 0.8,
};
const traceDefaults = { size: 3, color: '#32cf7e', opacity: 1 };
const decoyDefaults = { color: '#646566', font: 'Sans', size: 20, opacity: 0.8 };

serve(async ({ width, height, captcha, trace, decoy, background }) => {
  const generator = new CaptchaGenerator().setDimension(height, width);
  generator.setCaptcha({ ...captchaDefaults, ...captcha });
  generator.setTrace({ ...traceDefaults, ...trace });
  generator.setDecoy({ ...decoyDefaults, ...decoy });
  if (background) generator.setBackground(fill(width, height, background));
  return { image: await generator.generate(), label: generator.text };
});
