/**
 * The words of the page in English and Chinese.
 *
 * Responsible for: which language is shown, and putting its words into elements that name them by
 * `data-text` (content) or `data-label` (accessible name). Leaves sentences of the service, which
 * are English, as they come. Invariant: both languages have the same names.
 */

const ENGLISH = {
  skip: "Skip to the answers",
  pages: "Pages",
  docs: "API",
  asking: "Asking for the model…",
  ready: "Ready",
  loading: "Loading the model…",
  failed: "The model broke",
  draining: "Shutting down",
  unreachable: "No connection",
  choose: "Choose captchas",
  chooseHelp: "or drop them anywhere, or paste with Ctrl+V",
  key: "API key",
  keyHelp: "This service answers only with a key. It is kept until this page is closed.",
  useKey: "Use it",
  options: "Options",
  kind: "Kind",
  kind_auto: "any",
  kind_text: "letters and digits",
  kind_digits: "digits",
  kind_chinese: "Chinese",
  kind_math: "arithmetic",
  kind_question: "question",
  case: "Letter case",
  case_keep: "as read",
  case_lower: "lower",
  case_upper: "upper",
  length: "Length",
  minConfidence: "Least confidence",
  charset: "Allowed characters",
  prompt: "Prompt",
  readAgain: "Read all again",
  command: "The same with curl",
  copy: "Copy",
  copied: "Copied",
  copyCommand: "Copy the command",
  copyAnswer: "Copy {text}",
  answers: "Answers",
  copyAll: "Copy all",
  clear: "Clear",
  nothing: "No captcha yet. Images go to this service and to no other.",
  cached: "cached",
  below: "below {least}",
  retry: "Try again",
  details: "Details",
  raw: "Raw response",
  characters: "Characters",
  alternatives: "Alternatives",
  timing: "Time",
  request: "Request",
  waiting: "Waiting…",
  reading: "Reading…",
  none: "none",
  milliseconds: "{total} ms",
  parts: "{total} ms: {queue} in the queue, {inference} in the model",
  confidence: "Confidence",
  said: "{file}: {text}, {confidence}",
  saidError: "{file}: {error}",
  summary: "{done} of {all} done, {read} read, {failed} failed",
  noConnection: "The service cannot be reached.",
  notJson: "The reply (status {status}) is not one of this service.",
};

const CHINESE = {
  skip: "跳到结果",
  pages: "页面",
  docs: "接口",
  asking: "正在查询模型…",
  ready: "就绪",
  loading: "正在加载模型…",
  failed: "模型出错",
  draining: "正在关闭",
  unreachable: "无法连接",
  choose: "选择验证码图片",
  chooseHelp: "也可拖放到页面任意处，或按 Ctrl+V 粘贴",
  key: "API 密钥",
  keyHelp: "此服务需要密钥。密钥只保留到本页关闭为止。",
  useKey: "使用",
  options: "选项",
  kind: "类型",
  kind_auto: "不限",
  kind_text: "字母和数字",
  kind_digits: "数字",
  kind_chinese: "汉字",
  kind_math: "算式",
  kind_question: "问答",
  case: "大小写",
  case_keep: "原样",
  case_lower: "小写",
  case_upper: "大写",
  length: "长度",
  minConfidence: "最低置信度",
  charset: "允许的字符",
  prompt: "提示词",
  readAgain: "全部重新识别",
  command: "等价的 curl 命令",
  copy: "复制",
  copied: "已复制",
  copyCommand: "复制命令",
  copyAnswer: "复制 {text}",
  answers: "结果",
  copyAll: "全部复制",
  clear: "清空",
  nothing: "还没有验证码。图片只发送给本服务。",
  cached: "缓存",
  below: "低于 {least}",
  retry: "重试",
  details: "详情",
  raw: "模型原文",
  characters: "逐字",
  alternatives: "其他读法",
  timing: "耗时",
  request: "请求编号",
  waiting: "等待中…",
  reading: "识别中…",
  none: "无",
  milliseconds: "{total} 毫秒",
  parts: "{total} 毫秒：排队 {queue}，模型 {inference}",
  confidence: "置信度",
  said: "{file}：{text}，{confidence}",
  saidError: "{file}：{error}",
  summary: "{all} 张中完成 {done} 张，识别 {read} 张，失败 {failed} 张",
  noConnection: "无法连接到服务。",
  notJson: "回复（状态码 {status}）不是本服务发出的。",
};

export const LANGUAGES = { en: ENGLISH, zh: CHINESE };
const KEPT = "qwen-captcha-language";

let current = LANGUAGES[kept()] ? kept() : navigator.language.startsWith("zh") ? "zh" : "en";

/** Return a text in the language that is shown, with its `{names}` filled in. */
export function say(name, values = {}) {
  return LANGUAGES[current][name].replace(/\{(\w+)\}/g, (_, value) => values[value]);
}

/** Return a share of one as a percentage. */
export function percent(share) {
  const digits = share >= 0.995 || share < 0.1 ? 1 : 0;
  return `${(100 * share).toFixed(digits)} %`;
}

/** Put the words of the language into whatever in `root` names them. */
export function translate(root) {
  for (const element of root.querySelectorAll("[data-text]")) {
    element.textContent = say(element.dataset.text);
  }
  for (const element of root.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", say(element.dataset.label));
  }
}

/** Show the page in the language that is chosen, and offer the other one on `button`. */
export function showLanguage(button) {
  document.documentElement.lang = current === "zh" ? "zh-CN" : "en";
  button.textContent = current === "zh" ? "English" : "中文";
  button.lang = current === "zh" ? "en" : "zh-CN";
  translate(document);
}

/** Choose the other language, for later visits too. */
export function switchLanguage() {
  current = current === "zh" ? "en" : "zh";
  try {
    localStorage.setItem(KEPT, current);
  } catch {
    // Storage may be forbidden; the choice then lasts as long as the page.
  }
}

function kept() {
  try {
    return localStorage.getItem(KEPT);
  } catch {
    return null;
  }
}
