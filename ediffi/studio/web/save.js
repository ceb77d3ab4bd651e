// A file that Python made is saved by the browser.
watch("value", () => {
  const { name, url } = props.value || {};
  if (url) Object.assign(document.createElement("a"), { href: url, download: name }).click();
});
