/**
 * The curl command of the same request, quoted for a POSIX shell and for curl's syntax of forms.
 *
 * The command names the variable of the key, never its value.
 */

/**
 * Return the command.
 *
 * @param {string} address of the route
 * @param {string} fileName
 * @param {Object<string, string>} options
 * @param {boolean} withKey whether the service requires a key
 */
export function curlCommand(address, fileName, options, withKey) {
  const words = ["curl -s"];
  if (withKey) words.push('-H "X-API-Key: $API_KEY"');
  words.push(`-F ${quoted(`image=@${formFile(fileName)}`)}`);
  // Not -F: it reads a file for a value that begins with @ or <.
  for (const [name, value] of Object.entries(options)) {
    words.push(`--form-string ${quoted(`${name}=${value}`)}`);
  }
  words.push(quoted(address));
  return words.join(" \\\n  ");
}

/** Return a word for the shell, in quotes where it needs them. */
function quoted(word) {
  if (/^[\w@%+=:,./-]+$/.test(word)) return word;
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

/** Return a file name for -F, in quotes if it has characters that curl would interpret. */
function formFile(name) {
  return /[;,"\\]/.test(name) ? `"${name.replace(/["\\]/g, "\\$&")}"` : name;
}
