// What a downloaded result is: an MP4 begins with a box of this type.
export function kind(bytes) {
  return Buffer.from(bytes).subarray(4, 8).toString("latin1");
}

export async function download(url) {
  const response = await fetch(url);
  return response.ok ? kind(await response.arrayBuffer()) : `status ${response.status}`;
}

// rejection is the error that a promise ends with.
export function rejection(promise) {
  return promise.then(
    () => {
      throw new Error("nothing was refused");
    },
    (error) => error,
  );
}
