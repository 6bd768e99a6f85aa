// Swagger UI, with an example request that is ready to send.
"use strict";

const ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#description",
  deepLinking: false,
  defaultModelsExpandDepth: -1,
  displayRequestDuration: true,
  docExpansion: "full",
  tryItOutEnabled: true,
  validatorUrl: null,
});

// The page sends the API key with each request and does not store it.
document.getElementById("key").addEventListener("input", (event) => {
  ui.preauthorizeApiKey("key", event.target.value.trim());
});

// The dark style of Swagger UI applies only if the page enables it.
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();
