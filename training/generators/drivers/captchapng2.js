// captchapng2: digits of two bitmap faces, each in a colour of its own.
'use strict';

const CaptchaPng = require('captchapng2');
const { serve } = require('./protocol.js');

serve(({ text, width, height }) => {
  const captcha = new CaptchaPng(width, height, text);
  return { image: captcha.getBuffer(), label: text };
});
