// Images to send: read from files, made smaller where they are larger than models look at.

const LONGEST_SIDE = 2048;
const SMALL_BYTES = 1024 * 1024;

const read = (blob) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(blob);
  });

/**
 * Return an image file as a `data:` URL of at most `most` bytes.
 * Throws an Error whose message is a sentence for a person.
 */
export async function imageUrl(file, most) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} is no image that this browser can read.`);
  }
  if (file.size <= SMALL_BYTES && Math.max(bitmap.width, bitmap.height) <= LONGEST_SIDE) {
    return read(file);
  }
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const smaller = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
  if (!smaller || smaller.size > most) {
    throw new Error(`${file.name} is too large to send.`);
  }
  return read(smaller);
}
