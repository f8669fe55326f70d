// Several files as one archive, stored and not packed, without their names. The layout is that of PKWARE's APPNOTE.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n >>> 0;
});

async function checksum(blob) {
  let crc = 0xffffffff;
  for (const byte of new Uint8Array(await blob.arrayBuffer())) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

// Numbers of two or four bytes, as [value, bytes].
function record(...numbers) {
  const view = new DataView(new ArrayBuffer(numbers.reduce((sum, [, bytes]) => sum + bytes, 0)));
  let at = 0;
  for (const [value, bytes] of numbers) {
    if (bytes === 4) view.setUint32(at, value, true);
    else view.setUint16(at, value, true);
    at += bytes;
  }
  return view.buffer;
}

export async function zip(blobs) {
  const [files, directory] = [[], []];
  let [place, listed] = [0, 0];
  for (const [number, blob] of blobs.entries()) {
    const name = String(number);
    const facts = [[20, 2], [0, 2], [0, 2], [0, 4], [await checksum(blob), 4], [blob.size, 4], [blob.size, 4], [name.length, 2], [0, 2]];
    files.push(record([0x04034b50, 4], ...facts), name, blob);
    directory.push(record([0x02014b50, 4], [20, 2], ...facts, [0, 2], [0, 2], [0, 2], [0, 4], [place, 4]), name);
    place += 30 + name.length + blob.size;
    listed += 46 + name.length;
  }
  const end = record([0x06054b50, 4], [0, 2], [0, 2], [blobs.length, 2], [blobs.length, 2], [listed, 4], [place, 4], [0, 2]);
  return new Blob([...files, ...directory, end]);
}
