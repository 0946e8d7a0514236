// What differs between two texts, by words, numbers and signs.

const MOST_TOKENS = 1500;
// Scripts without spaces between words go sign by sign.
const TOKEN = /\s+|\p{N}+(?:[.,:]\p{N}+)*|[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}]\p{M}*|[\p{L}\p{M}\p{N}_]+|\S/gu;

/** Two lists of [text, is it the other's too], one for each text. */
export function difference(left, right) {
  const one = left.match(TOKEN) ?? [];
  const other = right.match(TOKEN) ?? [];
  let start = 0;
  while (start < one.length && start < other.length && one[start] === other[start]) start++;
  let end = 0;
  while (end < one.length - start && end < other.length - start &&
    one[one.length - 1 - end] === other[other.length - 1 - end]) end++;
  const [middle, others] = [one.slice(start, one.length - end), other.slice(start, other.length - end)];
  const [kept, keptOthers] = common(middle, others);
  const around = (parts, inner) => joined([
    ...parts.slice(0, start).map((token) => [token, true]),
    ...inner,
    ...parts.slice(parts.length - end).map((token) => [token, true]),
  ]);
  return [around(one, kept), around(other, keptOthers)];
}

/** Longest common subsequence; of long texts, none is looked for. */
function common(one, other) {
  if (one.length > MOST_TOKENS || other.length > MOST_TOKENS) {
    return [one.map((token) => [token, false]), other.map((token) => [token, false])];
  }
  const width = other.length + 1;
  const lengths = new Uint16Array((one.length + 1) * width);
  for (let i = one.length - 1; i >= 0; i--) {
    for (let j = other.length - 1; j >= 0; j--) {
      lengths[i * width + j] = one[i] === other[j]
        ? lengths[(i + 1) * width + j + 1] + 1
        : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
    }
  }
  const [kept, keptOthers] = [one.map((token) => [token, false]), other.map((token) => [token, false])];
  for (let i = 0, j = 0; i < one.length && j < other.length;) {
    if (one[i] === other[j]) {
      kept[i++][1] = true;
      keptOthers[j++][1] = true;
    } else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) i++;
    else j++;
  }
  return [kept, keptOthers];
}

/** Neighbours that are alike in one; a space between two that differ differs with them. */
function joined(tokens) {
  const parts = [];
  tokens.forEach(([token, same], place) => {
    const isBetween = same && place > 0 && !/\S/.test(token) && tokens[place - 1][1] === false && tokens[place + 1]?.[1] === false;
    const last = parts.at(-1);
    if (last !== undefined && last[1] === (same && !isBetween)) last[0] += token;
    else parts.push([token, same && !isBetween]);
  });
  return parts;
}
