// svg-captcha, with its drawings turned into pixels by resvg.
'use strict';

const opentype = require('opentype.js');
const { Resvg } = require('@resvg/resvg-js');
const svgCaptcha = require('svg-captcha');
const { serve } = require('./protocol.js');

function own(face) {
  if (!face) return {};
  const font = opentype.loadSync(face);
  return { font, ascender: font.ascender, descender: font.descender };
}

function pixels(svg) {
  return new Resvg(svg, { background: 'white', font: { loadSystemFonts: false } }).render().asPng();
}

serve((settings) => {
  const { mode, text, result, face, options } = settings;
  if (mode === 'text') {
    const image = pixels(svgCaptcha(text, { ...options, ...own(face) }));
    return result === undefined
      ? { image, label: text }
      : { image, label: result, kind: 'math', expression: text };
  }
  if (mode === 'math') {
    // The library keeps the expression to itself: it is the text that it draws.
    const random = require('svg-captcha/lib/random');
    const { text: label, equation } = random.mathExpr(
      options.mathMin, options.mathMax, options.mathOperator);
    return { image: pixels(svgCaptcha(equation, options)), label, kind: 'math', expression: equation };
  }
  const captcha = svgCaptcha.create(options);
  return { image: pixels(captcha.data), label: captcha.text };
});
