// What differs between two texts, by words.

const MOST_WORDS = 800;

/** Two lists of [text, is it the other's too], one for each text. */
export function difference(left, right) {
  const one = left.match(/\s+|[^\s]+/g) ?? [];
  const other = right.match(/\s+|[^\s]+/g) ?? [];
  let start = 0;
  while (start < one.length && start < other.length && one[start] === other[start]) start++;
  let end = 0;
  while (end < one.length - start && end < other.length - start &&
    one[one.length - 1 - end] === other[other.length - 1 - end]) end++;
  const [middle, others] = [one.slice(start, one.length - end), other.slice(start, other.length - end)];
  const [kept, keptOthers] = common(middle, others);
  const around = (parts, inner) => joined([
    ...parts.slice(0, start).map((word) => [word, true]),
    ...inner,
    ...parts.slice(parts.length - end).map((word) => [word, true]),
  ]);
  return [around(one, kept), around(other, keptOthers)];
}

/** Longest common subsequence; of long texts, none is looked for. */
function common(one, other) {
  if (one.length > MOST_WORDS || other.length > MOST_WORDS) {
    return [one.map((word) => [word, false]), other.map((word) => [word, false])];
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
  const [kept, keptOthers] = [one.map((word) => [word, false]), other.map((word) => [word, false])];
  for (let i = 0, j = 0; i < one.length && j < other.length;) {
    if (one[i] === other[j]) {
      kept[i++][1] = true;
      keptOthers[j++][1] = true;
    } else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) i++;
    else j++;
  }
  return [kept, keptOthers];
}

function joined(words) {
  const parts = [];
  for (const [word, same] of words) {
    const last = parts.at(-1);
    if (last !== undefined && last[1] === same) last[0] += word;
    else parts.push([word, same]);
  }
  return parts;
}
