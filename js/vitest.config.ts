import { defineConfig } from "vitest/config";

export default defineConfig({
  // A busy machine takes its time over axe.
  test: { environment: "jsdom", include: ["tests/**/*.test.ts"], testTimeout: 30_000 },
});
