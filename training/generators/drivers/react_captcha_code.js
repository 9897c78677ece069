// react-captcha-code: the component draws on a canvas of the `canvas` package in place of a page's.
'use strict';

const { createCanvas } = require('canvas');
const React = require('react');
const { act, create } = require('react-test-renderer');
const Captcha = require('react-captcha-code/build/cjs/index.js').default;
const { serve } = require('./protocol.js');

globalThis.IS_REACT_ACT_ENVIRONMENT = true;

serve(({ width, height, characters, background, size, text }) => {
  const canvas = createCanvas(width, height);
  let label = text;
  const properties = { width, height, charNum: characters, onChange: (code) => { label = code; } };
  if (background) properties.bgColor = background;
  if (size) properties.fontSize = size;
  if (text) properties.code = text;
  let mounted;
  act(() => {
    mounted = create(React.createElement(Captcha, properties), { createNodeMock: () => canvas });
  });
  act(() => mounted.unmount());
  return { image: canvas.toBuffer('image/png'), label };
});
