// captchapng: digits of two bitmap faces.
'use strict';

const CaptchaPng = require('captchapng');
const { serve } = require('./protocol.js');

serve(({ text, width, height, background, paint }) => {
  const captcha = new CaptchaPng(width, height, text);
  captcha.color(...background);
  captcha.color(...paint);
  return { image: Buffer.from(captcha.getBase64(), 'base64'), label: text };
});
