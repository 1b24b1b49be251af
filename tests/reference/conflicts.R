# Reference values for tests/analysis/test_against_r.py, made once by: Rscript conflicts.R > conflicts.json
# Packages of Debian 12: r-bioc-limma, r-cran-emmeans, r-cran-lmertest, r-cran-jsonlite.
suppressMessages({library(limma); library(emmeans); library(lmerTest); library(jsonlite)})

# 1. limma: prior and moderated variances of sample variances with equal and with unequal degrees of freedom
variances <- list(
  even = list(s2 = c(1.2, 0.8, 2.5, 0.3, 1.9, 0.7), df = rep(4, 6)),
  one_noisy = list(s2 = c(0.9, 1.1, 14, 1.3, 0.7, 1.0, 0.8), df = rep(4, 7)),
  calm = list(s2 = c(1.0, 1.05, 0.95, 1.02), df = rep(9, 4)),
  unequal = list(s2 = c(1.2, 0.5, 3.1, 0.9, 2.2), df = c(2, 4, 4, 9, 3))
)
limma_values <- lapply(variances, function(v) {
  prior <- fitFDist(v$s2, df1 = v$df)
  post <- squeezeVar(v$s2, df = v$df)
  list(s2 = v$s2, df = v$df, scale = prior$scale, prior_df = prior$df2, posterior = post$var.post)
})

# 2. emmeans and lmerTest: two tricks crossed over five blocks; simple effects and interaction of a mixed model
y00 <- c(0.602, 0.575, 0.611, 0.640, 0.583); y10 <- c(0.655, 0.630, 0.640, 0.690, 0.637)
y01 <- c(0.640, 0.622, 0.655, 0.671, 0.620); y11 <- c(0.611, 0.600, 0.621, 0.632, 0.598)
data <- data.frame(
  y = c(y00, y10, y01, y11), a = factor(rep(c(0, 1, 0, 1), each = 5)), b = factor(rep(c(0, 0, 1, 1), each = 5)),
  block = factor(rep(1:5, 4)))
model <- lmer(y ~ a * b + (1 | block), data)
means <- emmeans(model, ~ a * b)
four <- list(alone_a = c(-1, 1, 0, 0), alone_b = c(-1, 0, 1, 0), interaction = c(1, -1, -1, 1),
             b_given_a = c(0, -1, 0, 1), a_given_b = c(0, 0, -1, 1))
found <- as.data.frame(contrast(means, four))
mixed <- list(y00 = y00, y10 = y10, y01 = y01, y11 = y11,
              estimate = setNames(as.list(found$estimate), names(four)), se = setNames(as.list(found$SE), names(four)),
              df = setNames(as.list(found$df), names(four)))

# 3. paired t tests of the same contrasts, one by one
paired <- lapply(four, function(w) {
  test <- t.test(w[1] * y00 + w[2] * y10 + w[3] * y01 + w[4] * y11)
  list(estimate = unname(test$estimate), p = test$p.value, low = test$conf.int[1], high = test$conf.int[2])
})

# 4. adjusted p-values
p <- c(0.001, 0.04, 0.012, 0.3, 0.049, 0.012)
adjusted <- list(p = p, holm = p.adjust(p, "holm"), bh = p.adjust(p, "BH"))

# 5. NIST StRD SmLs03 and SmLs09 (Simon & Lesage): nine treatments, 2,001 observations each, certified F = 2001; the
# certified within mean square is 0.01 and the treatments' means are 1.4 and 1.3, 1.5 in turn, behind 1e12 in SmLs09
cat(toJSON(list(limma = limma_values, mixed = mixed, paired = paired, adjusted = adjusted,
                versions = list(R = R.version.string, limma = as.character(packageVersion("limma")),
                                emmeans = as.character(packageVersion("emmeans")),
                                lmerTest = as.character(packageVersion("lmerTest")))),
           auto_unbox = TRUE, digits = 15, pretty = TRUE), "\n")
